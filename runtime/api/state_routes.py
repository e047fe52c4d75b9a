"""``/v1/state``: what a tenant's agents share. Any key of the tenant reads and writes: its agents do, too."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from admiralty.core.errors import AdmiraltyError, Conflict, NotFound, VersionConflict
from admiralty.core.ports import StateStore
from admiralty.core.state import Check, StateChange, StateValue, Write
from admiralty.core.values import Identity
from admiralty.runtime.api.door import Me
from admiralty.runtime.api.errors import invalid
from admiralty.runtime.api.listeners import Listeners
from admiralty.runtime.api.sse import KEEP_ALIVE, EventStream, encode
from admiralty.runtime.api.state_schema import (
    ChangeInfo,
    ChangeList,
    NewTransaction,
    NewValue,
    ValueInfo,
    ValueList,
    VersionInfo,
    VersionList,
)
from admiralty.runtime.api.wire import json_response
from admiralty.runtime.state.describe import change_json, value_json

TAGS: list[Any] = ["state"]

_TAG = re.compile(r'\s*"(\d{1,9})"\s*')
_BIGGEST = 2**31 - 1

IfMatch = Annotated[
    str | None, Header(description='The ETag that you read, as `"3"`; `*`: there must be a value.')
]
IfNoneMatch = Annotated[str | None, Header(description="`*`: there must be none yet.")]
Seen = Annotated[str | None, Header(alias="If-None-Match", description="The ETag that you have.")]
Version = Annotated[int | None, Query(ge=0, le=_BIGGEST)]


class PreconditionFailed(Conflict):
    """The value has not the version that the request's headers name.

    ``details``: ``namespace``, ``key``, ``found`` (the present version; 0: there is none).
    """

    status = 412
    code = "version_conflict"


def add_state_routes(router: APIRouter, state: StateStore, keep_alive: float, listeners: Listeners) -> None:
    """Add ``/v1/state`` and what is below it."""
    _add_reading(router, state, keep_alive, listeners)
    _add_writing(router, state)


def _add_reading(router: APIRouter, state: StateStore, keep_alive: float, listeners: Listeners) -> None:
    @router.get("/v1/state/{namespace}", tags=TAGS, summary="List shared values", response_model=ValueList)
    async def list_values(
        namespace: str,
        identity: Me,
        prefix: Annotated[str, Query(max_length=200, description="Only keys that begin so.")] = "",
        after: Annotated[str, Query(max_length=200, description="Those behind this key.")] = "",
        limit: Annotated[int, Query(ge=1, le=200, description="How many at most.")] = 50,
    ) -> Response:
        """Return a namespace's values, in the order of their keys' bytes. One nobody wrote to is empty."""
        found = await state.find(identity, namespace, prefix=prefix, after=after, limit=limit + 1)
        data = [value_json(one) for one in found[:limit]]
        return json_response({"object": "list", "data": data, "has_more": len(found) > limit})

    @router.get(
        "/v1/state/{namespace}/{key}", tags=TAGS, summary="Show a shared value", response_model=ValueInfo
    )
    async def show_value(namespace: str, key: str, identity: Me, if_none_match: Seen = None) -> Response:
        """Return a value; its version is the ETag. With the ETag that you have: 304 if it is still that."""
        value = await _found(state, identity, namespace, key)
        if if_none_match is not None and _seen(if_none_match, value.version):
            return Response(status_code=304, headers=_etag(value.version))
        return json_response(value_json(value), headers=_etag(value.version))

    @router.get(
        "/v1/state/{namespace}/{key}/history", tags=TAGS, summary="Show who wrote", response_model=ChangeList
    )
    async def show_history(
        namespace: str,
        key: str,
        identity: Me,
        before: Annotated[Version, Query(description="Only versions below this one.")] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="How many at most.")] = 50,
    ) -> Response:
        """Return the versions that are kept, latest first, with who wrote each, also of a deleted value."""
        found = await state.history(identity, namespace, key, before=before, limit=limit + 1)
        data = [change_json(one) for one in found[:limit]]
        return json_response({"object": "list", "data": data, "has_more": len(found) > limit})

    @router.get(
        "/v1/state/{namespace}/{key}/watch",
        tags=TAGS,
        summary="Watch a shared value",
        response_class=Response,
        responses={200: {"model": ChangeInfo, "description": "Events `change`; their id is the version."}},
    )
    async def watch_value(
        namespace: str,
        key: str,
        identity: Me,
        after: Annotated[Version, Query(description="Begin behind this version, not now.")] = None,
        last_event_id: Annotated[
            str | None, Header(description="The last `id` that you have read; goes before `after`.")
        ] = None,
    ) -> Response:
        """Stream a value's versions as server-sent events `change`, until you leave.

        Reconnecting with `Last-Event-ID`, to any replica, you miss none: `missed` counts those that are not
        kept any more.
        """
        if last_event_id is not None:
            if not re.fullmatch(r"\d{1,9}", last_event_id):
                raise invalid("Last-Event-ID: this is no version.", "Last-Event-ID")
            after = int(last_event_id)
        changes = await state.watch(identity, namespace, key=key, after=after)
        return EventStream(_stream(changes, keep_alive), listeners=listeners, follows=True)


def _add_writing(router: APIRouter, state: StateStore) -> None:
    @router.put(
        "/v1/state/{namespace}/{key}",
        tags=TAGS,
        summary="Write a shared value",
        response_model=VersionInfo,
        responses={201: {"model": VersionInfo, "description": "There was none."}},
    )
    async def write_value(
        namespace: str,
        key: str,
        identity: Me,
        body: NewValue,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        """Write a value. With `If-Match` only over the version that you read, with `If-None-Match: *` only a
        new one: else 412, with the present version as `found`. Without either, over whatever there is.
        """
        expected = await _expected(state, identity, namespace, key, if_match, if_none_match)
        write = Write(namespace=namespace, key=key, value=body.value, expected=expected)
        made = await _written(state, identity, write)
        status = 201 if made.version == 1 or expected == 0 else 200
        return json_response(made, status=status, headers=_etag(made.version))

    @router.delete(
        "/v1/state/{namespace}/{key}", tags=TAGS, summary="Delete a shared value", response_model=VersionInfo
    )
    async def delete_value(namespace: str, key: str, identity: Me, if_match: IfMatch = None) -> Response:
        """Delete a value; with `If-Match` only the version that you read. Returns the deletion's version."""
        expected = await _expected(state, identity, namespace, key, if_match, None)
        write = Write(namespace=namespace, key=key, delete=True, expected=expected)
        made = await _written(state, identity, write)
        if not made.version:
            raise _nothing(namespace, key)
        return json_response(made)

    @router.post(
        "/v1/state/transactions", tags=TAGS, summary="Write several shared values", response_model=VersionList
    )
    async def transact(identity: Me, body: NewTransaction) -> Response:
        """Make all writes or none: 409 where a value has not the version that a write or check expects."""
        writes = [Write(**one.model_dump()) for one in body.writes]
        checks = [Check(**one.model_dump()) for one in body.checks]
        done = await state.transact(identity, writes, checks=checks)
        data = [
            VersionInfo(namespace=write.namespace, key=write.key, version=version, updated_at=done.at)
            for write, version in zip(writes, done.versions, strict=True)
        ]
        return json_response(VersionList(data=data))


async def _found(state: StateStore, identity: Identity, namespace: str, key: str) -> StateValue:
    [value] = await state.get_many(identity, [(namespace, key)])
    if value is None:
        raise _nothing(namespace, key)
    return value


async def _expected(
    state: StateStore,
    identity: Identity,
    namespace: str,
    key: str,
    if_match: str | None,
    if_none_match: str | None,
) -> int | None:
    """Return the version that the headers ask for. Raises InvalidRequest, PreconditionFailed."""
    if if_none_match is not None:
        if if_none_match.strip() != "*" or if_match is not None:
            raise invalid("If-None-Match: only * can be asked for, and without If-Match.", "If-None-Match")
        return 0
    if if_match is None:
        return None
    if if_match.strip() == "*":
        [value] = await state.get_many(identity, [(namespace, key)])
        if value is None:
            raise _failed(namespace, key, 0)
        return value.version
    tag = _TAG.fullmatch(if_match)
    if tag is None:
        raise invalid('If-Match: send the ETag that you read, as "3", or *.', "If-Match")
    if not int(tag[1]):
        raise invalid("If-Match: there is no version 0. For a new value, send If-None-Match: *.", "If-Match")
    return int(tag[1])


async def _written(state: StateStore, identity: Identity, write: Write) -> VersionInfo:
    try:
        done = await state.transact(identity, [write])
    except VersionConflict as error:
        raise _failed(write.namespace, write.key, error.details["found"]) from None
    [version] = done.versions
    return VersionInfo(namespace=write.namespace, key=write.key, version=version, updated_at=done.at)


def _nothing(namespace: str, key: str) -> NotFound:
    return NotFound(f"There is nothing under {key!r} in {namespace!r}.")


def _failed(namespace: str, key: str, found: int) -> PreconditionFailed:
    present = f"It has version {found}" if found else "There is none"
    return PreconditionFailed(
        f"{key!r} in {namespace!r} is not as the request's headers want it. {present}.",
        namespace=namespace,
        key=key,
        found=found,
    )


def _etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}


def _seen(header: str, version: int) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or f'"{version}"' in tags


async def _stream(
    changes: AsyncGenerator[StateChange, None], keep_alive: float
) -> AsyncGenerator[bytes, None]:
    yield KEEP_ALIVE  # the reader learns at once that it is connected
    coming = asyncio.ensure_future(anext(changes))
    try:
        while True:
            await asyncio.wait([coming], timeout=keep_alive)
            if not coming.done():
                yield KEEP_ALIVE
                continue
            try:
                change = coming.result()
            except AdmiraltyError:  # the database is away: the reader comes back, and misses nothing
                return
            yield encode(change_json(change), event="change", id=str(change.version))
            coming = asyncio.ensure_future(anext(changes))
    finally:
        coming.cancel()
        await asyncio.wait([coming])
        await changes.aclose()
