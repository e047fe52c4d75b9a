"""A replay finds every way in which tools may differ from their record."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from admiralty.core.errors import ConfigurationError
from admiralty.core.values import Caller, Identity
from admiralty.evals.replay import RecordedCall, RecordedTask, Replay, World, read_tasks, replay
from admiralty.tools import ToolContext, ToolError, ToolExecutor, tool

CALLER = Caller(identity=Identity(), fleet="f", agent="a", agent_version="1", conversation_id="c", run_id="r")


@tool(effect="read")
async def look(name: str, ctx: ToolContext) -> dict[str, Any]:
    """Look at a lamp.

    Args:
        name: Its name.
    """
    if name not in ctx.resources:
        raise ToolError("no such lamp")
    return {"name": name, "on": ctx.resources[name], "watts": [5, 7]}


@tool(effect="write")
def switch(name: str, ctx: ToolContext) -> str:
    """Switch a lamp.

    Args:
        name: Its name.
    """
    ctx.resources[name] = not ctx.resources[name]
    return "done"


LOOKED = '{"watts": [5.0, 7], "on": false, "name": "desk"}'


async def replayed(
    *calls: tuple[str, str, str], changed: dict[str, dict[str, Any]] | None = None, error_texts: bool = False
) -> Replay:
    def fresh(task: RecordedTask) -> World:
        lamps = {"desk": False, "hall": False}
        return World(
            context=lambda number: ToolContext(
                caller=CALLER, call_id=str(number), turn=1, user_message="", resources=lamps
            ),
            changed=lambda: {"lamps": {name: on for name, on in lamps.items() if on}},
        )

    task = RecordedTask(
        id="7",
        calls=[
            RecordedCall(name=name, arguments={"name": lamp}, output=output) for name, lamp, output in calls
        ],
        changed=changed or {},
    )
    return await replay([task, task], ToolExecutor([look, switch]), fresh, error_texts=error_texts)


async def test_a_replay_that_agrees_finds_no_difference_and_each_task_begins_afresh() -> None:
    result = await replayed(
        ("look", "desk", LOOKED),
        ("look", "attic", "Error: gone"),
        ("switch", "desk", "done"),
        changed={"lamps": {"desk": True}},
    )
    assert result.same
    assert str(result) == "2 tasks, 6 calls (2 errors), 0 differences"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("look", "attic", LOOKED), "call 0 (look): recorded"),
        (("look", "desk", "Error: gone"), "call 0 (look): recorded Error: gone, replayed"),
        (("look", "desk", LOOKED.replace("7", "8")), "call 0 (look) at watts.1: recorded 8, replayed 7"),
        (("look", "desk", LOOKED.replace("false", "0")), "at on: recorded 0, replayed false"),
        (
            ("look", "desk", LOOKED.replace("watts", "volts")),
            "at volts: recorded [5.0, 7], replayed (missing)",
        ),
        (("look", "desk", "{}"), "at name: recorded (missing), replayed desk"),
        (("look", "desk", "nothing"), "call 0 (look): recorded nothing, replayed"),
        (("fly", "desk", "done"), "call 0 (fly): recorded done, replayed Error: there is no tool 'fly'"),
    ],
)
async def test_another_outcome_or_value_is_found_and_said_in_words(
    call: tuple[str, str, str], said: str
) -> None:
    result = await replayed(call)
    assert len(result.differences) == 2
    assert said in str(result.differences[0])
    assert "task 7, " in str(result)


async def test_records_changed_otherwise_than_recorded_are_found() -> None:
    extra = await replayed(("switch", "desk", "done"))
    assert "changed lamps desk: recorded (unchanged), replayed true" in str(extra)
    missing = await replayed(("look", "desk", LOOKED), changed={"lamps": {"hall": True}})
    assert "changed lamps hall: recorded true, replayed (unchanged)" in str(missing)


async def test_error_texts_are_compared_on_request_only() -> None:
    call = ("look", "attic", "Error: gone")
    assert (await replayed(call)).same
    assert not (await replayed(call, error_texts=True)).same


def test_tasks_are_read_from_plain_and_zipped_lines_with_their_facts(tmp_path: Path) -> None:
    action = {"name": "look", "arguments": {"name": "desk"}, "output": LOOKED}
    lines = [
        {"actions": [action], "changed": {}, "owner": "ada"},
        {"id": "x", "actions": [], "changed": {"lamps": {}}},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "t.jsonl").write_text(text)
    with gzip.open(tmp_path / "t.jsonl.gz", "wt") as file:
        file.write(text)
    tasks = list(read_tasks(tmp_path / "t.jsonl"))
    assert tasks == list(read_tasks(tmp_path / "t.jsonl.gz"))
    assert [(task.id, len(task.calls), dict(task.facts)) for task in tasks] == [
        ("0", 1, {"owner": "ada"}),
        ("x", 0, {}),
    ]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"actions": [{}], "changed": {}}', "3"])
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(ConfigurationError, match=r"t\.jsonl: not a file of recorded tasks"):
        list(read_tasks(tmp_path / "t.jsonl"))
    with pytest.raises(ConfigurationError, match=r"missing\.jsonl"):
        list(read_tasks(tmp_path / "missing.jsonl"))
