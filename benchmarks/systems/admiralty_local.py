"""Admiralty's runtime in one process, without Ray: API, coordinator, agents and scheduler behind uvicorn.

python -m benchmarks.systems.admiralty_local --port 9203 --home FOLDER
"""

import argparse
import asyncio
from pathlib import Path

import uvicorn

from admiralty.core.clock import SystemClock
from admiralty.core.settings import Settings
from admiralty.runtime.api import ApiParts, create_app
from admiralty.runtime.effects import EffectBook
from admiralty.runtime.ledger.budgets import Budgets
from admiralty.runtime.ledger.figures import Figures
from admiralty.runtime.ledger.reports import Reports
from admiralty.runtime.local import open_local
from admiralty.runtime.storage.keys import ApiKeys
from benchmarks.fleet import fleet


async def serve(port: int, home: Path) -> None:
    """Serve the fleet until SIGTERM; its database is SQLite in `home`, as with `admiralty up`."""
    settings = Settings.load(home=home, port=port)
    async with open_local(fleet, settings=settings) as local:
        parts = ApiParts(
            conversations=local.conversations,
            keys=ApiKeys(local.database),
            reports=Reports(local.database),
            budgets=Budgets(local.database),
            figures=Figures(local.database, SystemClock()),
            effects=EffectBook(local.database, SystemClock()),
            settings=settings,
            version="0",
        )
        config = uvicorn.Config(create_app(parts), port=port, log_level="warning", access_log=False)
        await uvicorn.Server(config).serve()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--home", type=Path, required=True)
    options = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(options.port, options.home))
    else:
        uvloop.run(serve(options.port, options.home))


if __name__ == "__main__":
    main()
