"""``Fleet``: agents that fit together, checked when it is defined."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from admiralty.agents import Agent, Fleet, FleetContext, Limits, inline_prompt
from admiralty.core.errors import DefinitionError
from admiralty.tools import tool

PROMPT = inline_prompt("You answer.")


def agent(name: str, *handoffs: str, **values: Any) -> Agent:
    return Agent(name, prompt=PROMPT, handoffs=handoffs, **values)


@tool(effect="read")
def look_up(order_id: str) -> str:
    """Look up an order."""
    return order_id


@tool(effect="read", name="look_up")
def look_up_elsewhere(order_id: str) -> str:
    """Look up an order elsewhere."""
    return order_id


def test_a_fleet_resolves_the_tools_that_its_agents_name() -> None:
    fleet = Fleet("desk", agents=[agent("clerk", tools=["look_up"])], entry="clerk", tools=[look_up])
    assert fleet.agent("clerk").tools == (look_up,)
    direct = Fleet("desk", agents=[agent("clerk", tools=[look_up])], entry="clerk")
    assert fleet.agent("clerk").version == direct.agent("clerk").version
    with pytest.raises(KeyError):
        fleet.agent("nobody")


def test_agents_may_come_from_a_generator_and_circles_beside_the_entry_are_allowed() -> None:
    pairs = [("a", "b"), ("b", "c"), ("c", "b")]
    fleet = Fleet("desk", agents=(agent(*names) for names in pairs), entry="a")  # type: ignore[arg-type]
    assert [a.name for a in fleet.agents] == ["a", "b", "c"]


WRONG: list[tuple[dict[str, Any], str, object, str]] = [
    ({"name": "The Desk"}, "Fleet.name", "The Desk", "Use a-z"),
    ({"agents": []}, "Fleet('desk').agents", [], "at least one"),
    ({"agents": ["clerk"]}, "Fleet('desk').agents", "clerk", "Give Agent(...)s"),
    ({"agents": [agent("clerk"), agent("clerk")]}, "Fleet('desk').agents", "clerk", "Rename one"),
    ({"entry": "nobody"}, "Fleet('desk').entry", "nobody", "Agents: clerk"),
    ({"agents": [agent("clerk", "boss")]}, "Agent('clerk').handoffs", "boss", "Agents: clerk"),
    ({"agents": [agent("clerk"), agent("stray")]}, "Fleet('desk').agents", "stray", "Add it to"),
    (
        {"agents": [agent("clerk", "a"), agent("a", "b"), agent("b", "clerk")]},
        "Fleet('desk').entry",
        "clerk",
        "Remove 'clerk' from the handoffs of 'b'",
    ),
    ({"agents": [agent("clerk", tools=["x"])]}, "Agent('clerk').tools", "x", "Tools of Fleet('desk'): none"),
    (
        {"agents": [agent("clerk", tools=["x"])], "tools": [look_up]},
        "Agent('clerk').tools",
        "x",
        "Tools of Fleet('desk'): look_up",
    ),
    ({"tools": [look_up, look_up_elsewhere]}, "Fleet('desk').tools", "look_up", "Rename one"),
    ({"tools": [agent]}, "Fleet('desk').tools", "agent", "@tool(effect=...)"),
]


@pytest.mark.requirement("definitions.errors")
@pytest.mark.parametrize(("values", "key", "value", "remedy"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_fleet_is_refused_with_key_value_and_remedy(
    values: dict[str, Any], key: str, value: object, remedy: str
) -> None:
    given: dict[str, Any] = {"name": "desk", "agents": [agent("clerk")], "entry": "clerk"} | values
    with pytest.raises(DefinitionError) as refused:
        Fleet(given.pop("name"), **given)
    error = refused.value
    assert (error.key, error.value) == (key, value)
    assert remedy in error.remedy


@pytest.mark.requirement("definitions.errors")
@pytest.mark.parametrize("name", ["steps", "calls", "handoffs", "seconds", "history"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"Limits\.{name} = 0: not above 0"):
        Limits(**{name: 0})


@pytest.mark.requirement("definitions.frozen")
def test_fleets_are_frozen() -> None:
    fleet = Fleet("desk", agents=[agent("clerk")], entry="clerk")
    with pytest.raises(dataclasses.FrozenInstanceError):
        fleet.entry = "boss"  # type: ignore[misc]
    assert isinstance(fleet.agents, tuple)


def test_documents_are_read_relative_to_the_defining_file(tmp_path: Path) -> None:
    here = Path(__file__).parent
    (tmp_path / "extra.md").write_text("# Extra", encoding="utf-8")

    def knowledge(context: FleetContext) -> dict[str, list[str | Path]]:
        return {"policy": ["test_fleet.py", context.home / "extra.md"]}

    fleet = Fleet("desk", agents=[agent("clerk")], entry="clerk", knowledge=knowledge)
    assert fleet.directory == here
    documents = fleet.documents(FleetContext(home=tmp_path))
    assert set(documents["policy"]) == {"test_fleet.py", "extra.md"}
    assert documents["policy"]["extra.md"] == "# Extra"


@pytest.mark.requirement("definitions.errors")
@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (["nowhere.md"], "cannot be read"),
        (["a/policy.md", "b/policy.md"], "another document has this file name"),
        (["binary.md"], "cannot be read"),
    ],
)
def test_documents_that_cannot_be_cited_are_refused(tmp_path: Path, files: list[str], problem: str) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "policy.md").write_text(folder)
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe")
    fleet = Fleet(
        "desk", agents=[agent("clerk")], entry="clerk", knowledge={"p": [tmp_path / f for f in files]}
    )
    with pytest.raises(DefinitionError) as refused:
        fleet.documents(FleetContext(home=tmp_path))
    assert refused.value.key == "Fleet('desk').knowledge['p']"
    assert refused.value.problem.startswith(problem)
