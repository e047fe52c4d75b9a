"""Questions to a policy, and policies in folders of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from admiralty.core.clock import SystemClock
from admiralty.core.money import Nanos
from admiralty.core.ports import Clock
from admiralty.core.values import Access, Action, Caller, Identity
from admiralty.runtime.policy import CedarPolicy, load_bundle
from admiralty.runtime.policy.bundle import DEFAULT
from admiralty.runtime.policy.stock import AgentFacts

AGENTS = {
    "desk.clerk": AgentFacts(tier="mid", tools=("look", "cancel")),
    "desk.greeter": AgentFacts(tier="small", tools=()),
}
"""The fleet that the tests ask for."""

SCHEMA = (DEFAULT / "schema.cedarschema").read_text()

PolicyOf = Callable[..., CedarPolicy]


def caller(agent: str = "clerk", **identity: Any) -> Caller:
    return Caller(
        identity=Identity(**({"tenant": "acme"} | identity)),
        fleet="desk",
        agent=agent,
        agent_version="v1",
        conversation_id="conv_1",
        run_id="run_1",
    )


def asked(
    action: Action = "tool:call",
    resource: str = "cancel",
    *,
    by: Caller | None = None,
    facts: Mapping[str, Any] | None = None,
    price: int = 0,
    **attributes: Any,
) -> Access:
    """A question; by default: may the clerk cancel?"""
    given = (
        {"effect": "write"} if action == "tool:call" else {"tier": "mid"} if action == "model:call" else {}
    )
    return Access(
        id="call_1",
        caller=by or caller(),
        action=action,
        resource=resource,
        attributes=given | attributes,
        context=facts or {},
        price=Nanos(price),
    )


def write_files(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def session(declared: str) -> str:
    """The text of a session.cedarschema."""
    return f"type Session = {{ {declared} }};"


def entities(*listed: Mapping[str, Any]) -> str:
    return json.dumps(list(listed))


@pytest.fixture
def policy_of(tmp_path: Path) -> PolicyOf:
    """Makes a policy of files, on top of the default ones."""

    def make(
        files: Mapping[str, str] | None = None,
        *,
        clock: Clock | None = None,
        enforced: bool = True,
        **options: Any,
    ) -> CedarPolicy:
        folder = write_files(tmp_path / "policies", files) if files else None
        return CedarPolicy(
            load_bundle(operator=folder), AGENTS, clock=clock or SystemClock(), enforced=enforced, **options
        )

    return make
