"""The budgets of one database: made, changed and looked at. What is spent of them is the ledger's work.

A budget counts from its creation on, and only while it is not archived. None is ever deleted: the
ledger's entries name them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.clock import SystemClock
from admiralty.core.errors import Conflict, Denied, InvalidRequest, NotFound
from admiralty.core.ids import new_id
from admiralty.core.money import Nanos, from_dollars
from admiralty.core.ports import Clock
from admiralty.runtime.ledger.alerts import alert_rows, crossed, insert_alerts
from admiralty.runtime.ledger.rows import read_budget
from admiralty.runtime.ledger.scopes import parse_scope
from admiralty.runtime.ledger.values import WINDOWS, Budget
from admiralty.runtime.ledger.viewer import OPERATOR, Viewer
from admiralty.runtime.ledger.webhooks import checked_webhook
from admiralty.runtime.ledger.windows import HELD, oldest_bucket, resets_at, window_key, zone
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import budgets, counters

MAX_PER_SCOPE = 32
"""Budgets that a scope can have at a time: each call looks at all of them."""

MAX_SUBJECTS = 20
MAX_THRESHOLDS = 10
MAX_THRESHOLD = 10.0
MIN_SECONDS, MAX_SECONDS = 60.0, 366 * 86400.0

_AMOUNT = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?")
_MAX_NANOS = 9 * 10**18  # of what 64 bits hold, with room for what is spent above the limit


@dataclass(frozen=True, kw_only=True, slots=True)
class SubjectState:
    """How one of many stands, of a budget that applies to each."""

    subject: str
    spent: Nanos
    held: Nanos

    def left(self, limit: Nanos) -> Nanos:
        """Return what nobody has claimed of the limit."""
        return Nanos(limit - self.spent - self.held)


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetState:
    """A budget as it stands now. Where it applies to each of many, amounts are those of all together."""

    budget: Budget
    window: str
    """Key of the present window."""
    spent: Nanos
    held: Nanos
    resets_at: float | None
    subjects: Sequence[SubjectState] = field(default=())
    """Those that spent most, if they were asked for."""
    subject_count: int = 0

    @property
    def applies_to_each(self) -> bool:
        return parse_scope(self.budget.scope).is_each

    @property
    def left(self) -> Nanos | None:
        """What nobody has claimed, negative after debts; ``None`` where each has a limit of its own."""
        return None if self.applies_to_each else Nanos(self.budget.limit - self.spent - self.held)


class Budgets:
    """The budgets of one database, as a viewer may see and change them."""

    def __init__(
        self, database: Database, clock: Clock | None = None, *, allow_private_webhooks: bool = False
    ) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        self._allow_private = allow_private_webhooks

    async def create(
        self,
        *,
        scope: str,
        limit_usd: str,
        window: str,
        seconds: float | None = None,
        timezone: str = "UTC",
        name: str = "",
        hard: bool = True,
        thresholds: Sequence[float] = (0.5, 0.8, 1.0),
        webhook: str | None = None,
        viewer: Viewer = OPERATOR,
    ) -> Budget:
        """Make a budget. Raises InvalidRequest, and Denied for a scope that is not the viewer's."""
        limited = parse_scope(scope)
        if not viewer.owns(limited):
            raise Denied(f"scope = {scope!r}: that is not your tenant's.", param="scope")
        now = self._clock.now()
        budget = Budget(
            id=new_id("budget"),
            scope=str(limited),
            name=checked_name(name),
            limit=checked_limit(limit_usd),
            window=checked_window(window, seconds),  # type: ignore[arg-type]  # it is one of WINDOWS
            seconds=seconds,
            timezone=zone(timezone).key,
            hard=hard,
            thresholds=checked_thresholds(thresholds),
            webhook=None if webhook is None else checked_webhook(webhook, allow_private=self._allow_private),
            created_at=now,
            updated_at=now,
        )
        owner = viewer.tenant or limited.owner
        await self._database.write(lambda connection: _insert(connection, budget, owner))
        return budget

    async def state(
        self, budget_id: str, *, viewer: Viewer = OPERATOR, subjects: int = MAX_SUBJECTS
    ) -> BudgetState:
        """Return a budget as it stands, with those that spent most of it. Raises NotFound."""

        def look(connection: Connection) -> BudgetState:
            budget = _find(connection, budget_id, viewer)
            return _state(connection, budget, self._clock.now(), subjects)

        return await self._database.read(look)

    async def states(
        self,
        *,
        viewer: Viewer = OPERATOR,
        scope: str | None = None,
        archived: bool = False,
        after: str | None = None,
        limit: int = 50,
    ) -> list[BudgetState]:
        """Return budgets as they stand, oldest first, those behind the budget with the id ``after``."""
        query = sa.select(budgets).where(_visible(viewer)).order_by(budgets.c.id).limit(limit)
        if scope is not None:
            query = query.where(budgets.c.scope == str(parse_scope(scope)))
        if not archived:
            query = query.where(budgets.c.archived_at.is_(None))
        if after is not None:
            query = query.where(budgets.c.id > after)

        def look(connection: Connection) -> list[BudgetState]:
            now = self._clock.now()
            found = [read_budget(row) for row in connection.execute(query).mappings()]
            return [_state(connection, budget, now, 0) for budget in found]

        return await self._database.read(look)

    async def fullest(self, limit: int = 100) -> list[BudgetState]:
        """Return the active budgets of which most is taken in some window, fullest first."""
        used = sa.cast(counters.c.spent + counters.c.held, sa.Float) / (budgets.c.limit_nanos + 1)
        fullest = (
            sa.select(budgets.c.id, sa.func.max(sa.func.coalesce(used, 0.0)).label("used"))
            .select_from(budgets.outerjoin(counters, counters.c.budget_id == budgets.c.id))
            .where(budgets.c.archived_at.is_(None))
            .group_by(budgets.c.id)
            .order_by(sa.desc("used"), budgets.c.id)
            .limit(limit)
            .subquery()
        )
        query = sa.select(budgets).join(fullest, fullest.c.id == budgets.c.id)
        query = query.order_by(fullest.c.used.desc(), budgets.c.id)

        def look(connection: Connection) -> list[BudgetState]:
            now = self._clock.now()
            found = [read_budget(row) for row in connection.execute(query).mappings()]
            return [_state(connection, budget, now, 0) for budget in found]

        return await self._database.read(look)

    async def change(
        self,
        budget_id: str,
        changes: Mapping[str, Any],
        *,
        viewer: Viewer = OPERATOR,
        expected: float | None = None,
    ) -> Budget:
        """Change ``limit_usd``, ``name``, ``thresholds``, ``webhook``, ``hard``, ``archived``: any of them.

        ``expected`` is the ``updated_at`` of what the caller saw. Thresholds that are passed because of
        the change alert at once. Raises InvalidRequest, NotFound, Conflict.
        """
        values = self._checked(changes)

        def update(connection: Connection) -> Budget:
            old = _find(connection, budget_id, viewer, lock=True)
            if expected is not None and expected != old.updated_at:
                raise Conflict(
                    f"Budget {budget_id} was changed by somebody else meanwhile. Look at it again."
                )
            now = self._clock.now()
            new = replace(old, **_applied(old, values, now), updated_at=max(now, old.updated_at + 1e-3))
            if old.archived_at is not None and new.archived_at is None:
                _check_room(connection, new.scope)
            connection.execute(budgets.update().where(budgets.c.id == budget_id).values(_row(new)))
            if new.archived_at is None:
                _alert_of_change(connection, old, new, now)
            return new

        return await self._database.write(update)

    def _checked(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return changes as fields of a budget; ``archived`` stays as it is."""
        values = dict(changes)
        if "limit_usd" in values:
            values["limit"] = checked_limit(values.pop("limit_usd"))
        if "name" in values:
            values["name"] = checked_name(values["name"])
        if "thresholds" in values:
            values["thresholds"] = checked_thresholds(values["thresholds"])
        if values.get("webhook") is not None:
            values["webhook"] = checked_webhook(values["webhook"], allow_private=self._allow_private)
        if unknown := set(values) - {"limit", "name", "thresholds", "webhook", "hard", "archived"}:
            raise InvalidRequest(
                f"{', '.join(sorted(unknown))}: that cannot be changed. Make another budget."
            )
        return values


# -- what a budget may say ------------------------------------------------------------------------


def checked_limit(text: str) -> Nanos:
    """Return dollars, written as a decimal, as nano-dollars. Raises InvalidRequest."""
    text = text.strip()
    if not _AMOUNT.fullmatch(text) or (amount := from_dollars(text)) >= _MAX_NANOS:
        raise InvalidRequest(
            f"limit_usd = {text[:40]!r}: write dollars as a decimal in text, at most 9 digits behind the "
            "point and less than 9000000000, as in 25 or 0.50.",
            param="limit_usd",
        )
    return amount


def checked_window(window: str, seconds: float | None) -> str:
    """Return the kind of window. Raises InvalidRequest, also for ``seconds`` that do not fit it."""
    if window not in WINDOWS:
        raise InvalidRequest(f"window = {window[:40]!r}: use one of {', '.join(WINDOWS)}.", param="window")
    if (window == "rolling") != (seconds is not None):
        raise InvalidRequest("seconds: give them for a rolling window, and for no other.", param="seconds")
    if seconds is not None and not (math.isfinite(seconds) and MIN_SECONDS <= seconds <= MAX_SECONDS):
        raise InvalidRequest(
            f"seconds = {seconds}: a rolling window has {MIN_SECONDS:.0f} to {MAX_SECONDS:.0f} seconds.",
            param="seconds",
        )
    return window


def checked_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Return thresholds in order, each once. Raises InvalidRequest."""
    found = tuple(sorted({float(threshold) for threshold in thresholds}))
    if len(found) > MAX_THRESHOLDS or not all(0 < threshold <= MAX_THRESHOLD for threshold in found):
        raise InvalidRequest(
            f"thresholds: give at most {MAX_THRESHOLDS} shares of the limit, above 0 and up to "
            f"{MAX_THRESHOLD:g}, as in 0.8.",
            param="thresholds",
        )
    return found


def checked_name(name: str) -> str:
    """Return a name for people. Raises InvalidRequest."""
    name = name.strip()
    if len(name) > 200 or not (name.isprintable() or not name):
        raise InvalidRequest("name: at most 200 printable characters.", param="name")
    return name


# -- rows -----------------------------------------------------------------------------------------


def _insert(connection: Connection, budget: Budget, owner: str | None) -> None:
    _check_room(connection, budget.scope)
    connection.execute(budgets.insert().values(_row(budget) | {"tenant": owner}))


def _check_room(connection: Connection, scope: str) -> None:
    """Raise Conflict if a scope has as many budgets as it can have."""
    active = sa.select(sa.func.count()).where(budgets.c.scope == scope, budgets.c.archived_at.is_(None))
    if connection.execute(active).scalar_one() >= MAX_PER_SCOPE:
        raise Conflict(f"{scope} has {MAX_PER_SCOPE} budgets already. Archive one, or change it.")


def _row(budget: Budget) -> dict[str, Any]:
    row = {name: getattr(budget, name) for name in Budget.__dataclass_fields__ if name != "limit"}
    return row | {"limit_nanos": budget.limit, "thresholds": list(budget.thresholds)}


def _visible(viewer: Viewer) -> sa.ColumnElement[bool]:
    if viewer.team_scope is not None:
        return budgets.c.scope == viewer.team_scope
    return sa.true() if viewer.tenant is None else budgets.c.tenant == viewer.tenant


def _find(connection: Connection, budget_id: str, viewer: Viewer, *, lock: bool = False) -> Budget:
    query = sa.select(budgets).where(budgets.c.id == budget_id, _visible(viewer))
    row = connection.execute(query.with_for_update(key_share=True) if lock else query).mappings().first()
    if row is None:
        raise NotFound(f"There is no budget {budget_id[:50]!r}.")
    return read_budget(row)


def _applied(old: Budget, values: Mapping[str, Any], now: float) -> dict[str, Any]:
    fields = dict(values)
    archived = fields.pop("archived", None)
    if archived is not None and archived != (old.archived_at is not None):
        fields["archived_at"] = now if archived else None
    return fields


def _alert_of_change(connection: Connection, old: Budget, new: Budget, now: float) -> None:
    if old.limit == new.limit and old.thresholds == new.thresholds:
        return
    rows: list[dict[str, Any]] = []
    for state in _subjects(connection, new, now, limit=1000):
        before = crossed(old, 0, state.spent)
        fresh = [
            row
            for row in alert_rows(new, state.subject, 0, state.spent, now)
            if row["threshold"] not in before
        ]
        rows += fresh
    insert_alerts(connection, rows)


def _state(connection: Connection, budget: Budget, now: float, subjects: int) -> BudgetState:
    table = counters.c
    sums = sa.select(
        sa.func.coalesce(sa.func.sum(table.spent), 0),
        sa.func.coalesce(sa.func.sum(table.held), 0),
        sa.func.count(table.subject.distinct()),
    ).where(_counted(budget, now))
    spent, held, count = connection.execute(sums).one()
    each = parse_scope(budget.scope).is_each
    return BudgetState(
        budget=budget,
        window=window_key(budget, now),
        spent=Nanos(int(spent)),
        held=Nanos(int(held)),
        resets_at=resets_at(budget, now),
        subjects=_subjects(connection, budget, now, limit=subjects) if each and subjects else (),
        subject_count=count if each else 0,
    )


def _subjects(connection: Connection, budget: Budget, now: float, *, limit: int) -> list[SubjectState]:
    """Return who spent most of a budget in its present window."""
    table = counters.c
    spent = sa.func.sum(table.spent)
    query = (
        sa.select(table.subject, spent, sa.func.sum(table.held))
        .where(_counted(budget, now))
        .group_by(table.subject)
        .order_by(spent.desc(), table.subject)
        .limit(limit)
    )
    return [
        SubjectState(subject=subject, spent=Nanos(int(used)), held=Nanos(int(held)))
        for subject, used, held in connection.execute(query)
    ]


def _counted(budget: Budget, now: float) -> sa.ColumnElement[bool]:
    """Return which counters make up a budget's present window."""
    window = counters.c.window
    if budget.window == "rolling":
        present = sa.or_(window == HELD, window >= oldest_bucket(budget, now))
    else:
        present = window == window_key(budget, now)
    return sa.and_(counters.c.budget_id == budget.id, present)
