"""Parts of a real cluster die in the middle of a turn."""

from __future__ import annotations

import os
import signal

import httpx
import pytest

from .conftest import Up, wait_for
from .test_turns import ANSWER, begun, in_background, say

pytestmark = pytest.mark.ray


@pytest.mark.requirement("serve.scheduler_death")
def test_a_turn_whose_scheduler_is_killed_goes_on_and_is_answered(running: Up, client: httpx.Client) -> None:
    path = begun(client)
    turn = in_background(running, path, "ROUTE:tides How high is it?")
    [victim] = running.replicas("scheduler")
    os.kill(victim, signal.SIGKILL)
    (running.gates / "closed").unlink()
    events = turn.result(timeout=90)
    assert events[-1][0] == "done", events[-1]
    assert events[-1][1]["message"] == ANSWER
    wait_for(lambda: running.replicas("scheduler") not in ([], [victim]), "another scheduler", 60)
    assert say(client, path, "ROUTE:greeter Thanks!")[-1][0] == "done"
