"""Sends alerts: a line in the log, an event in this process, the budget's webhook.

Several processes share the work: each claims due rows for a while, in the database. The row is there
exactly once and its log line is written by whoever claims it first; the webhook is sent at least once,
with the alert's id as ``Idempotency-Key``, for a process may die between the answer and its note of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import sqlalchemy as sa
from sqlalchemy import Connection

from admiralty.core.money import dollars_text, format_dollars
from admiralty.core.ports import Clock
from admiralty.runtime.ledger.alerts import Alert, read_alert
from admiralty.runtime.ledger.rows import read_budget
from admiralty.runtime.ledger.values import Budget
from admiralty.runtime.ledger.webhooks import WebhookFailed, post
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import alerts, budgets

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
LEASE_SECONDS = 30.0
"""How long a claimed alert is its claimer's: longer than any request takes."""

MAX_ATTEMPTS = 8
FIRST_DELAY_SECONDS = 5.0
MAX_DELAY_SECONDS = 3600.0
MAX_CLAIMED = 20

OnAlert = Callable[[Alert, Budget], None]


def next_delay(attempts: int) -> float | None:
    """Return after how many seconds an alert that failed so often is tried again; ``None``: given up."""
    if attempts >= MAX_ATTEMPTS:
        return None
    return min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 3.0 ** (attempts - 1))


def webhook_body(alert: Alert, budget: Budget) -> dict[str, Any]:
    """Return what a webhook is sent, as JSON. Amounts are exact decimals in text."""
    return {
        "id": alert.id,
        "type": "budget.threshold",
        "at": alert.at,
        "threshold": alert.threshold,
        "spent_usd": dollars_text(alert.spent),
        "limit_usd": dollars_text(alert.limit),
        "subject": alert.subject or budget.scope,
        "window": alert.window,
        "budget": {
            "id": budget.id,
            "name": budget.name,
            "scope": budget.scope,
            "window": budget.window,
            "hard": budget.hard,
        },
    }


class AlertDeliverer:
    """Sends the alerts of one database, beside any number of others that do."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        allow_private: bool = False,
        on_alert: OnAlert | None = None,
        poll: float = POLL_SECONDS,
    ) -> None:
        """``allow_private`` permits webhooks inside the network; ``on_alert`` hears of alerts here."""
        self._database = database
        self._clock = clock
        self._allow_private = allow_private
        self._on_alert = on_alert
        self._poll = poll
        self._client: httpx.AsyncClient | None = None
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to deliver, until :meth:`close`."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_delivering())

    async def close(self) -> None:
        """Stop. What was being sent is sent again by whoever claims it next."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def wake(self) -> None:
        """Look for alerts now rather than at the next turn."""
        self._woken.set()

    async def deliver_due(self) -> int:
        """Send what is due, and return how many alerts that were."""
        now = self._clock.now()
        due = sa.select(alerts.c.id).where(alerts.c.next_attempt_at <= now).limit(1)
        if not await self._database.read(lambda connection: connection.execute(due).first()):
            return 0
        claimed = await self._database.write(lambda connection: _claim(connection, now))
        await asyncio.gather(*(self._deliver(*one) for one in claimed))
        return len(claimed)

    async def _keep_delivering(self) -> None:
        while True:
            try:
                while await self.deliver_due() == MAX_CLAIMED:
                    pass
            except Exception:  # a database that is away; it may come back
                logger.exception("alerts cannot be delivered now")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._woken.wait()
            self._woken.clear()

    async def _deliver(self, alert: Alert, budget: Budget, attempts: int) -> None:
        if attempts == 1:
            self._tell(alert, budget)
        problem = None
        if budget.webhook:
            problem = await self._send(alert, budget, budget.webhook)
        noted = alerts.update().where(alerts.c.id == alert.id, alerts.c.delivered_at.is_(None))
        now = self._clock.now()
        if problem is None:
            noted = noted.values(delivered_at=now, next_attempt_at=None, error=None)
        else:
            delay = next_delay(attempts)
            if delay is None:
                logger.error("alert %s is given up after %d attempts: %s", alert.id, attempts, problem)
            again = None if delay is None else now + delay * random.uniform(0.75, 1.25)
            # Whoever has claimed it since knows better.
            noted = noted.where(alerts.c.attempts == attempts).values(next_attempt_at=again, error=problem)
        await self._database.write(lambda connection: connection.execute(noted) and None)

    async def _send(self, alert: Alert, budget: Budget, url: str) -> str | None:
        """Send a webhook; return what went wrong, if anything did."""
        if self._client is None:
            # No proxies from the environment: the address that was checked must be the one that is asked.
            self._client = httpx.AsyncClient(trust_env=False, timeout=None)  # noqa: S113 - see TIMEOUT_SECONDS
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": alert.id,
            "User-Agent": "admiralty-alerts",
        }
        body = json.dumps(webhook_body(alert, budget), ensure_ascii=False).encode("utf-8", "replace")
        try:
            await post(self._client, url, body, headers, allow_private=self._allow_private)
        except WebhookFailed as failure:
            return str(failure)
        except Exception as error:  # whatever it is, the others go on, and this one is tried again
            logger.exception("alert %s could not be sent", alert.id)
            return type(error).__name__
        return None

    def _tell(self, alert: Alert, budget: Budget) -> None:
        logger.warning(
            "budget %s (%s): spent %s of %s in %s, passing %g%% [%s]",
            budget.id,
            alert.subject or budget.scope,
            format_dollars(alert.spent),
            format_dollars(alert.limit),
            alert.window,
            round(alert.threshold * 100, 6),
            alert.id,
        )
        if self._on_alert is not None:
            try:
                self._on_alert(alert, budget)
            except Exception:
                logger.exception("a listener failed at alert %s", alert.id)


def _claim(connection: Connection, now: float) -> list[tuple[Alert, Budget, int]]:
    """Take due alerts for a while; return them with their budgets and the number of this attempt."""
    due = (
        sa.select(alerts.c.id)
        .where(alerts.c.next_attempt_at <= now)
        .order_by(alerts.c.next_attempt_at, alerts.c.id)
        .limit(MAX_CLAIMED)
        .with_for_update(skip_locked=True)  # SQLite has no such thing, and one writer at a time
    )
    ids = list(connection.execute(due).scalars())
    if not ids:
        return []
    taken = (
        alerts.update()
        .where(alerts.c.id.in_(ids))
        .values(attempts=alerts.c.attempts + 1, next_attempt_at=now + LEASE_SECONDS)
        .returning(alerts)
    )
    rows = connection.execute(taken).mappings().all()
    wanted = {row["budget_id"] for row in rows}
    found = connection.execute(sa.select(budgets).where(budgets.c.id.in_(wanted))).mappings()
    known = {row["id"]: read_budget(row) for row in found}
    return [
        (read_alert(row), known[row["budget_id"]], row["attempts"])
        for row in sorted(rows, key=lambda row: (row["at"], row["id"]))
        if row["budget_id"] in known
    ]
