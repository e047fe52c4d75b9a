"""API keys: shown once, stored as digests, each belonging to a tenant."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from admiralty.core.clock import SystemClock
from admiralty.core.errors import InvalidRequest, NotFound
from admiralty.core.ids import new_id
from admiralty.core.ports import Clock
from admiralty.runtime.storage.database import Database
from admiralty.runtime.storage.tables import api_keys

PREFIX = "adm_"

MAX_TAGS = 8
_TAG = re.compile(r"[A-Za-z0-9_.\-/]{1,64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """What is known of a key. The key itself is known to its holder only."""

    id: str
    tenant: str
    team: str | None = None
    """The team that its holder acts for; such a key sees that team's money only, unless it is ``admin``."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What its spending is grouped and budgeted by besides. No request can change them."""
    admin: bool = False
    """Whether its holder may change the tenant's budgets."""
    name: str
    hint: str
    """The first characters, to recognise it by."""
    created_at: float
    revoked_at: float | None = None


class ApiKeys:
    """The keys of one database.

    A key holds 256 random bits, so one round of SHA-256 is enough: there is nothing to guess.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def create(
        self,
        *,
        tenant: str = "default",
        name: str = "default",
        team: str | None = None,
        tags: Mapping[str, str] | None = None,
        admin: bool = False,
    ) -> tuple[str, ApiKey]:
        """Return a new key and its record. The key cannot be had again.

        Raises InvalidRequest for tags that are none.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            id=new_id("key"),
            tenant=tenant,
            team=team or None,
            tags=checked_tags(list((tags or {}).items()), "tags"),
            admin=admin,
            name=name,
            hint=secret[:8],
            created_at=self._clock.now(),
        )

        def insert(connection: Connection) -> None:
            connection.execute(
                api_keys.insert().values(
                    id=key.id,
                    digest=_digest(secret),
                    hint=key.hint,
                    tenant=tenant,
                    team=key.team,
                    tags=dict(key.tags),
                    admin=admin,
                    name=name,
                    created_at=key.created_at,
                )
            )

        await self._database.write(insert)
        return secret, key

    async def find(self, secret: str) -> ApiKey | None:
        """Return the valid key that ``secret`` is, if it is one."""

        def select(connection: Connection) -> ApiKey | None:
            row = connection.execute(
                sa.select(api_keys).where(
                    api_keys.c.digest == _digest(secret), api_keys.c.revoked_at.is_(None)
                )
            ).first()
            return None if row is None else _key(row)

        return await self._database.read(select)

    async def all(self) -> list[ApiKey]:
        """Return all keys, oldest first, revoked ones too."""

        def select(connection: Connection) -> list[ApiKey]:
            return [_key(row) for row in connection.execute(sa.select(api_keys).order_by(api_keys.c.id))]

        return await self._database.read(select)

    async def revoke(self, key_id: str) -> None:
        """Make a key invalid for good. Raises NotFound."""

        def update(connection: Connection) -> int:
            return connection.execute(
                api_keys.update()
                .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=self._clock.now())
            ).rowcount

        if not await self._database.write(update):
            raise NotFound(f"There is no valid key {key_id}. See `admiralty keys list`.")


def checked_tags(tags: Sequence[tuple[str, str]], where: str) -> dict[str, str]:
    """Return tags as a mapping. Raises InvalidRequest, naming ``where`` they were given."""
    given: dict[str, str] = {}
    problem = None
    for key, value in tags:
        if not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
            problem = f"{key[:70]}={value[:70]}: keys and values have 1 to 64 letters, digits or _ . - /"
        elif key in given:
            problem = f"{key}: given twice"
        given[key] = value
    if len(given) > MAX_TAGS:
        problem = f"{len(given)} tags: at most {MAX_TAGS} are possible"
    if problem:
        raise InvalidRequest(f"{where}: {problem}. Write them as project=alpha.", param=where)
    return given


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    values = row._mapping
    return ApiKey(**{field: values[field] for field in ApiKey.__dataclass_fields__})
