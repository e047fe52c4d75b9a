"""``Agent``: what is checked when one is defined, and what makes a new version of it."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from admiralty.agents import Agent, Autoscale, Prompt, Resources, inline_prompt
from admiralty.core.errors import DefinitionError
from admiralty.tools import tool

PROMPT = inline_prompt("You are a clerk.")


@tool(effect="read")
def look_up(order_id: str) -> str:
    """Look up an order."""
    return order_id


class Routed(BaseModel):
    handoff: Literal["lookup", "reasoning"] | None
    reason: str = ""


class Route(Enum):
    LOOKUP = "lookup"


class RoutedByEnum(BaseModel):
    handoff: Route


class Verdict(BaseModel):
    allowed: bool


def build_graph(context: object) -> object:
    return context


class Builder:
    def __call__(self, context: object) -> object:
        return context


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.requirement("agents.prompts")
def test_a_prompt_file_has_text_version_and_digest(prompt_file: Path) -> None:
    prompt = Agent("clerk", prompt=prompt_file).instructions
    assert (prompt.text, prompt.version, prompt.source) == ("You are a clerk.", "3", "clerk.md")
    assert prompt.digest == inline_prompt("You are a clerk.").digest


@pytest.mark.requirement("agents.prompts")
def test_prompt_files_are_found_beside_the_file_that_defines_the_agent(tmp_path: Path) -> None:
    """Also through ``replace``, and from a working folder somewhere else."""
    folder = tmp_path / "fleet"
    (folder / "prompts").mkdir(parents=True)
    (folder / "prompts" / "clerk.md").write_text("A clerk.")
    (folder / "prompts" / "other.md").write_text("Another.")
    (folder / "definition.py").write_text(
        "import dataclasses\n"
        "from admiralty.agents import Agent\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class OurAgent(Agent):\n"
        "    team: str = 'desk'\n"
        "clerk = OurAgent('clerk', prompt='prompts/clerk.md')\n"
        "other = dataclasses.replace(clerk, prompt='prompts/other.md')\n"
        "print(clerk.instructions.text, other.instructions.text)\n"
    )
    shown = subprocess.run(
        [sys.executable, str(folder / "definition.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert shown.stdout == "A clerk. Another.\n"


@pytest.mark.requirement("agents.prompts")
def test_a_definition_that_comes_from_no_file_looks_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clerk.md").write_text("A clerk.")
    monkeypatch.chdir(tmp_path)
    for name in ("<stdin>", "/tmp/ipykernel_1/2.py"):
        code = compile("agent = Agent('clerk', prompt='clerk.md')", name, "exec")
        namespace: dict[str, Any] = {"Agent": Agent, "__name__": "__main__"}
        exec(code, namespace)
        assert namespace["agent"].instructions.text == "A clerk."


def test_text_of_several_lines_is_a_prompt_itself() -> None:
    agent = Agent("clerk", prompt="You are a clerk.\nBe brief.\n")
    assert agent.instructions.text == "You are a clerk.\nBe brief."
    assert agent.instructions.source == "inline"


@pytest.mark.requirement("definitions.errors", "agents.prompts")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"---\nversion: 1\n---\n \n", "is empty"),
        (b"---\nversion: 1\nYou are", "front matter is not closed"),
        (b"---\n- a\n---\nYou are", "front matter is no mapping"),
        (b"---\na: [\n---\nYou are", "front matter: "),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_bad_prompt_file_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "bad.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DefinitionError) as refused:
        Agent("clerk", prompt=path)
    assert refused.value.key == "Agent('clerk').prompt"
    assert refused.value.value == str(path)
    assert refused.value.problem.startswith(problem)
    assert refused.value.remedy


# -- definitions -----------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str, object, str]] = [
    ({"name": "Big Clerk"}, "Agent.name", "Big Clerk", "Use a-z"),
    ({"name": 7}, "Agent.name", 7, "Use a-z"),
    ({"prompt": " "}, "prompt", " ", "Give the path"),
    ({"prompt": None}, "prompt", None, "Give the path"),
    ({"tier": "huge"}, "tier", "huge", "none, small, mid, frontier"),
    ({"placement": "moon"}, "placement", "moon", "'deployment' or 'inline'"),
    ({"replicas": 0}, "replicas", 0, "Autoscale(minimum=0)"),
    ({"replicas": "2"}, "replicas", "2", "Give 1 or more"),
    ({"resources": 2}, "resources", 2, "Resources(cpus=1)"),
    ({"max_steps": 0}, "max_steps", 0, "Give 1 or more"),
    ({"max_steps": None}, "max_steps", None, "Give 1 or more"),
    ({"max_output_tokens": 0}, "max_output_tokens", 0, "Give 1 or more"),
    ({"max_output_tokens": "9"}, "max_output_tokens", "9", "Give 1 or more"),
    ({"temperature": -1}, "temperature", -1, "0 to 2"),
    ({"temperature": "hot"}, "temperature", "hot", "0 to 2"),
    ({"lowest_tier": "mid"}, "lowest_tier", "mid", "Use one of none, small"),
    ({"lowest_tier": "tiny"}, "lowest_tier", "tiny", "Use one of none, small"),
    ({"priority": 101}, "priority", 101, "-100 to 100"),
    ({"priority": True}, "priority", True, "-100 to 100"),
    ({"priority": 0.5}, "priority", 0.5, "-100 to 100"),
    ({"graph": "graph"}, "graph", "graph", "builds the graph"),
    ({"tools": [build_graph]}, "tools", "build_graph", "@tool(effect=...)"),
    ({"tools": "look_up"}, "tools", "look_up", "Write [look_up]"),
    ({"tools": look_up}, "tools", "look_up", "Write [look_up]"),
    ({"tools": [look_up, "look_up"]}, "tools", "look_up", "Rename or remove one"),
    ({"handoffs": "lookup"}, "handoffs", "lookup", "Write ['lookup']"),
    ({"handoffs": ["clerk"]}, "handoffs", "clerk", "Remove it"),
    ({"handoffs": ["a", "a"]}, "handoffs", ("a", "a"), "Remove one"),
    ({"output": dict}, "output", dict, "Give a BaseModel"),
    ({"output": Verdict, "handoffs": ["a"]}, "output", "Verdict", "Add: handoff: Literal['a']"),
    ({"output": Routed, "handoffs": ["lookup"]}, "output.handoff", "reasoning", "Add it to them"),
    ({"output": RoutedByEnum, "handoffs": ["a"]}, "output.handoff", "lookup", "Add it to them"),
    ({"output": Verdict, "tools": [look_up]}, "tools", ["look_up"], "Remove tools or output"),
    ({"examples": {"a": "text"}}, "examples", "{'a': 'text'}", "Give texts for each label"),
    ({"examples": {"a": []}}, "examples", "{'a': []}", "Give texts for each label"),
    ({"examples": "nowhere.yaml"}, "examples", "nowhere.yaml", "Give a YAML file"),
]


@pytest.mark.requirement("definitions.errors")
@pytest.mark.parametrize(("values", "key", "value", "remedy"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_agent_is_refused_with_key_value_and_remedy(
    values: dict[str, Any], key: str, value: object, remedy: str
) -> None:
    given: dict[str, Any] = {"name": "clerk", "prompt": PROMPT} | values
    with pytest.raises(DefinitionError) as refused:
        Agent(given.pop("name"), **given)
    error = refused.value
    assert error.key in (key, f"Agent('clerk').{key}")
    assert error.value == value
    assert remedy in error.remedy
    assert str(error).startswith(f"{error.key} = {error.value!r}: ")


@pytest.mark.requirement("definitions.errors")
@pytest.mark.parametrize(
    ("kind", "values", "key"),
    [
        (Autoscale, {"minimum": 3, "maximum": 2}, "Autoscale(minimum, maximum)"),
        (Autoscale, {"minimum": 0, "maximum": 0}, "Autoscale(minimum, maximum)"),
        (Autoscale, {"minimum": -1}, "Autoscale(minimum, maximum)"),
        (Autoscale, {"target_ongoing_requests": 0}, "Autoscale.target_ongoing_requests"),
        (Resources, {"cpus": -1}, "Resources.cpus"),
        (Resources, {"memory_mb": -1}, "Resources.memory_mb"),
    ],
)
def test_wrong_bounds_and_resources_are_refused(kind: Any, values: dict[str, Any], key: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        kind(**values)
    assert refused.value.key == key
    assert refused.value.remedy


@pytest.mark.requirement("definitions.frozen")
def test_agents_are_frozen_and_cross_process_borders() -> None:
    agent = Agent("clerk", prompt=PROMPT, tools=[look_up], replicas=Autoscale(minimum=0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        agent.tier = "mid"  # type: ignore[misc]
    assert isinstance(agent.tools, tuple)
    plain = Agent("clerk", prompt=PROMPT, output=Routed, handoffs=["lookup", "reasoning"])
    assert pickle.loads(pickle.dumps(plain)) == plain


def test_examples_come_from_a_mapping_or_a_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "examples.yaml"
    path.write_text("lookup: [where is my order]\n1: [one]\n")
    agent = Agent("clerk", prompt=PROMPT, examples=path)
    assert agent.example_texts == {"lookup": ("where is my order",), "1": ("one",)}
    assert Agent("clerk", prompt=PROMPT).example_texts == {}


@pytest.mark.requirement("agents.lowest_tier")
@pytest.mark.parametrize(
    ("values", "floor"),
    [
        ({"tier": "frontier"}, "small"),
        ({"tier": "small"}, "small"),
        ({"tier": "none"}, "none"),
        ({"tier": "frontier", "lowest_tier": "mid"}, "mid"),
        ({"tier": "frontier", "lowest_tier": "frontier"}, "frontier"),
        ({"tier": "mid", "lowest_tier": "none"}, "none"),
    ],
)
def test_an_agent_says_how_low_its_calls_may_go(values: dict[str, Any], floor: str) -> None:
    assert Agent("clerk", prompt=PROMPT, **values).floor == floor


# -- versions --------------------------------------------------------------------------------------


@tool(effect="read", name="look_up")
def look_up_by_date(order_id: str, date: str) -> str:
    """Look up an order."""
    return order_id


@tool(effect="write", name="look_up")
def look_up_and_write(order_id: str) -> str:
    """Look up an order."""
    return order_id


@tool(effect="read", name="look_up", confirm=True)
def look_up_once_confirmed(order_id: str) -> str:
    """Look up an order."""
    return order_id


@tool(effect="read", name="look_up", price="0.01")
def look_up_for_money(order_id: str) -> str:
    """Look up an order."""
    return order_id


BASE: dict[str, Any] = {"prompt": PROMPT, "tools": [look_up], "handoffs": ["a", "b"]}
CHANGES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": inline_prompt("You are a good clerk.")},
    "tool": {"tools": []},
    "arguments of a tool": {"tools": [look_up_by_date]},
    "effect of a tool": {"tools": [look_up_and_write]},
    "confirmation of a tool": {"tools": [look_up_once_confirmed]},
    "price of a tool": {"tools": [look_up_for_money]},
    "handoffs": {"handoffs": ["a"]},
    "output": {"tools": [], "handoffs": [], "output": Verdict},
    "examples": {"examples": {"a": ["one"]}},
    "tier": {"tier": "mid"},
    "lowest_tier": {"lowest_tier": "none"},
    "priority": {"priority": 1},
    "max_output_tokens": {"max_output_tokens": 10},
    "temperature": {"temperature": 0.5},
    "graph": {"graph": build_graph},
    "graph by an object": {"graph": Builder()},
}


@pytest.mark.requirement("agents.version")
def test_every_part_that_shapes_the_behaviour_makes_a_new_version() -> None:
    versions = {name: Agent("clerk", **BASE | change).version for name, change in CHANGES.items()}
    versions["nothing"] = Agent("clerk", **BASE).version
    assert len(set(versions.values())) == len(versions), versions


@pytest.mark.requirement("agents.version")
def test_where_it_runs_and_what_it_is_called_make_no_new_version(prompt_file: Path) -> None:
    first = Agent("clerk", **BASE)
    same: list[dict[str, Any]] = [
        {},
        {"prompt": prompt_file},
        {"prompt": Prompt(text="x", source="elsewhere.md", version="9", digest=PROMPT.digest)},
        {"prompt": inline_prompt("  You are a clerk.\n")},
        {"description": "Sits at the desk."},
        {"placement": "inline"},
        {"replicas": Autoscale()},
        {"resources": Resources(cpus=2)},
        {"max_steps": 3},
    ]
    assert {Agent("clerk", **BASE | change).version for change in same} == {first.version}
    assert Agent("other", **BASE).version == first.version
    assert len(first.version) == 12


@pytest.mark.requirement("agents.version")
def test_a_version_is_the_same_in_every_process() -> None:
    code = (
        "from admiralty.agents import Agent, inline_prompt\n"
        "print(Agent('clerk', prompt=inline_prompt('Hello.'), handoffs=['a', 'b'], "
        "examples={'x': ['1'], 'y': ['2']}).version)"
    )
    shown = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(shown) == 1
