"""The people of a chaos run: they decide approvals, look at what nobody knows, and retry what is parked."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from admiralty.core.clock import SystemClock
from admiralty.runtime.durable.runs import RunStore
from admiralty.runtime.durable.values import Run
from admiralty.runtime.storage import Database
from benchmarks.chaos_client import Client

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
REJECTED = "-no"
"""End of the mark of what a person does not allow."""

WasDone = Callable[[Mapping[str, Any]], bool]
"""Tells of a call with these arguments whether it took place, as somebody does who looks."""


@dataclass(kw_only=True)
class People:
    """Look around again and again."""

    database: Database
    tenants: Mapping[str, Client]
    """An admin's client for each tenant."""
    was_done: WasDone
    may_look: Callable[[], bool] = lambda: True
    """Whether what can be seen is final: not while a process stands still that may act later."""
    counts: Counter[str] = field(default_factory=Counter)

    async def work(self) -> None:
        """Help wherever help is wanted, for ever."""
        while True:
            try:
                await self._decide()
                await self._clear_up()
            except (httpx.HTTPError, RuntimeError, OSError) as error:
                logger.info("later: %r", error)
            except Exception:
                logger.exception("a person stumbled")
            await asyncio.sleep(LOOK_SECONDS)

    async def _decide(self) -> None:
        for client in self.tenants.values():
            found = await client.call("GET", "/v1/approvals?status=pending&limit=100")
            for approval in found["data"]:
                arguments = approval["arguments"] or {}
                verdict = "reject" if str(arguments.get("mark", "")).endswith(REJECTED) else "approve"
                body = {"verdict": verdict, "reason": "as the benchmark says"}
                await _quietly(client.call("POST", f"/v1/approvals/{approval['id']}/decide", body))
                self.counts[verdict] += 1

    async def _clear_up(self) -> None:
        for run in await _parked(self.database):
            if not self.may_look():
                return
            client = self.tenants[run.tenant]
            path = f"/v1/conversations/{run.conversation_id}/runs/{run.id}"
            effects = await client.call("GET", f"{path}/effects")
            for effect in effects["data"]:
                if effect["status"] in ("begun", "unknown"):
                    done = self.was_done(effect["arguments"])
                    body = {"done": done, "digest": effect["digest"]}
                    await _quietly(client.call("POST", f"{path}/effects/{effect['call_id']}/resolve", body))
                    self.counts["resolved done" if done else "resolved not done"] += 1
            await _quietly(client.call("POST", f"{path}/retry"))
            self.counts["retried"] += 1


async def _quietly(call: Any) -> None:
    """Make a call that another, earlier one may have made already."""
    try:
        await call
    except httpx.HTTPStatusError as error:
        if error.response.status_code != 409:
            raise


async def _parked(database: Database) -> list[Run]:
    return await RunStore(database, owner="", clock=SystemClock()).recent(status="parked", limit=100)
