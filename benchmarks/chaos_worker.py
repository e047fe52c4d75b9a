"""One process of a chaos run: a whole runtime without Ray behind the real HTTP app, on a port of its own.

Started by `benchmarks.chaos_workers` from a server of forks that has imported everything already, so that one
that was killed is back at once.
"""

import asyncio
import json
import os
import threading
import time
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import uvicorn

from admiralty.agents import Fleet
from admiralty.core.clock import SystemClock
from admiralty.core.settings import Settings
from admiralty.core.values import TIERS
from admiralty.fleets.support import fleet as support
from admiralty.runtime.api import ApiParts, create_app
from admiralty.runtime.approvals import ApprovalStore
from admiralty.runtime.effects import EffectBook
from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.ledger.figures import Figures
from admiralty.runtime.ledger.reports import Reports
from admiralty.runtime.local import open_local
from admiralty.runtime.scheduler.dispatch import Providers, by_account
from admiralty.runtime.storage.keys import ApiKeys
from benchmarks.chaos_fleet import CONFIG
from benchmarks.chaos_fleet import fleet as till
from benchmarks.chaos_points import Points, install
from benchmarks.chaos_provider import CALL_PRICE, NAME, ScriptedProvider
from benchmarks.chaos_world import World

FLEETS: dict[str, Fleet] = {"till": till, "support": support}

PRICES = {f"{name}:*": {"input": "0", "output": "0", "request": CALL_PRICE} for name in (NAME, "extractive")}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one worker is."""

    fleet: str
    """A key of ``FLEETS``."""
    port: int
    folder: Path
    """Of the run: its points, the workers' logs."""
    settings: dict[str, Any]
    """Of Admiralty."""
    token_seconds: float = 0.0
    clock_ahead: float = 0.0
    """Seconds by which its clock is wrong."""


def settings_of(plan: Plan) -> Settings:
    """Return the settings that a worker runs with."""
    models = dict.fromkeys(TIERS, f"{NAME}:one") if plan.fleet == "till" else {}
    return Settings.load(models=models, prices=PRICES, embedder="hashing", **plan.settings)


def work(plan: Plan) -> None:
    """Live as a worker, in a process of its own, until a signal ends it or whoever started it is gone."""
    log = os.open(plan.folder / f"worker-{plan.port}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if plan.clock_ahead:
        right = time.time
        time.time = lambda: right() + plan.clock_ahead
    install(Points(plan.folder))
    asyncio.run(_serve(plan))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


async def _serve(plan: Plan) -> None:
    settings = settings_of(plan)
    async with open_local(FLEETS[plan.fleet], settings=settings, providers=_providers(plan)) as local:
        parts = ApiParts(
            conversations=local.conversations,
            keys=ApiKeys(local.database),
            reports=Reports(local.database),
            budgets=Budgets(local.database),
            figures=Figures(local.database, SystemClock()),
            approvals=ApprovalStore(local.database),
            effects=EffectBook(local.database, SystemClock()),
            settings=settings,
            version="0",
            keep_alive=1.0,
        )
        config = uvicorn.Config(
            create_app(parts),
            port=plan.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        await uvicorn.Server(config).serve()


def _providers(plan: Plan) -> Providers:
    if plan.fleet != "till":
        from benchmarks.chaos_preload import desk_model  # seconds, if it was not imported before the fork

        return by_account([desk_model])
    data = plan.settings["data"]
    world = World(Path(json.loads((Path(data) / CONFIG).read_text())["world"]))
    return by_account([ScriptedProvider(world=world, token_seconds=plan.token_seconds)])
