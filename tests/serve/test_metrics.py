"""What the scheduler measures is among Ray's own metrics."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from .conftest import Up, wait_for

pytestmark = pytest.mark.ray


@pytest.mark.requirement("metrics.ray")
def test_rays_prometheus_endpoint_shows_calls_cost_and_the_seconds_of_stages(
    running: Up, client: httpx.Client
) -> None:
    question = {"model": "pilots/tides", "messages": [{"role": "user", "content": "How high is the tide?"}]}
    assert client.post("/v1/chat/completions", json=question).status_code == 200
    ray = Path(next(running._run_folders())) / "ray"
    targets = json.loads((ray / "prom_metrics_service_discovery.json").read_text())
    addresses = [address for target in targets for address in target["targets"]]
    assert addresses
    assert all(address.startswith("127.0.0.1:") for address in addresses)

    def shown() -> bool:
        text = "".join(httpx.get(f"http://{address}/metrics").text for address in addresses)
        calls = [line for line in text.splitlines() if line.startswith("ray_admiralty_calls")]
        return (
            any('agent="tides"' in line and 'model="openai:mock"' in line for line in calls)
            and "ray_admiralty_cost_usd" in text
            and 'stage="hold"' in text
        )

    wait_for(shown, "the scheduler's metrics among Ray's", 60)
