"""A process that does one thing to the shop when it is told to; several make a race.

``python replica.py (open|cancel) HOME``: says "ready", waits for a line, acts, and prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace

from admiralty.core.values import Caller, Identity
from admiralty.fleets.support.shop import Shop, open_shop
from admiralty.fleets.support.tools import TOOLS
from admiralty.tools import ToolContext, ToolExecutor


async def cancel_all(shop: Shop, order_ids: list[str]) -> dict[str, str]:
    """Cancel every order in turn; return what came of each."""
    executor = ToolExecutor(TOOLS)
    ctx = ToolContext(
        caller=Caller(
            identity=Identity(), fleet="f", agent="a", agent_version="1", conversation_id="c", run_id="r"
        ),
        call_id="1",
        turn=1,
        user_message="",
        resources=SimpleNamespace(shop=shop),
        acting="staff",
    )
    outcomes: dict[str, str] = {}
    for order_id in order_ids:
        arguments = {"order_id": order_id, "reason": "no longer needed"}
        outcomes[order_id] = (await executor.execute("cancel_pending_order", arguments, ctx)).status
    return outcomes


def main() -> None:
    action, home = sys.argv[1], Path(sys.argv[2])
    shop = open_shop(None, home) if action == "cancel" else None
    print("ready", flush=True)  # noqa: T201
    order_ids = json.loads(sys.stdin.readline())
    shop = shop or open_shop(None, home)
    outcomes = asyncio.run(cancel_all(shop, order_ids))
    print(json.dumps({"outcomes": outcomes, "products": len(shop.store.products())}))  # noqa: T201


if __name__ == "__main__":
    main()
