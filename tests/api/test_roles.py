"""What a key says of its holder, and what a request may add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from admiralty.core.clock import SystemClock
from admiralty.core.errors import InvalidRequest
from admiralty.core.values import Identity
from admiralty.runtime.api.auth import Authenticator
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.keys import ApiKeys


async def identity_of(url: str, header: str | None, **key: Any) -> Identity:
    database = Database(url)
    try:
        keys = ApiKeys(database)
        secret, made = await keys.create(tenant="acme", **key)
        assert await keys.all() == [made]
        headers = [(b"x-api-key", secret.encode())]
        if header is not None:
            headers.append((b"x-tags", header.encode("latin-1")))
        request = Request({"type": "http", "method": "GET", "path": "/", "headers": headers})
        return await Authenticator(keys.find, SystemClock()).identify(request)
    finally:
        await database.close()


@pytest.mark.requirement("api.roles")
async def test_team_tags_and_role_come_from_the_key(database_url: str) -> None:
    who = await identity_of(database_url, None, team="blue", tags={"project": "alpha"}, admin=True)
    assert (who.tenant, who.team, who.tags, who.admin) == ("acme", "blue", {"project": "alpha"}, True)


@pytest.mark.requirement("api.roles")
async def test_a_key_that_says_nothing_has_no_role_no_team_and_no_tags(database_url: str) -> None:
    who = await identity_of(database_url, None)
    assert (who.team, who.tags, who.admin) == (None, {}, False)


@pytest.mark.requirement("api.tags")
async def test_a_request_adds_tags_but_never_changes_those_of_its_key(sqlite_url: str) -> None:
    who = await identity_of(
        sqlite_url, " project=mine , env=prod/eu,", tags={"project": "alpha", "cost.center": "7"}
    )
    assert who.tags == {"project": "alpha", "cost.center": "7", "env": "prod/eu"}


@pytest.mark.requirement("api.tags")
@pytest.mark.parametrize(
    "header",
    [
        "project",
        "=alpha",
        "project=",
        "project=a b",
        "a=1,a=2",
        "project=ä",
        f"{'k' * 65}=v",
        f"k={'v' * 65}",
        ",".join(f"k{number}=v" for number in range(9)),
        "x" * 5000,
        "project=a*",
    ],
)
async def test_a_header_that_is_no_list_of_tags_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(InvalidRequest):
        await identity_of(f"sqlite:///{tmp_path}/x.db", header)
