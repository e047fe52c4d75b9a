"""What an agent's definition and the settings become in Serve, and Serve's own YAML."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from .conftest import Run, Up, wait_for


def applications(up: Up) -> dict[str, Any]:
    answer = httpx.get(
        f"http://127.0.0.1:{up.dashboard_port}/api/serve/applications/",
        headers={"Authorization": f"Bearer {up.token}"},
        timeout=30,
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()["applications"]
    return found


@pytest.mark.ray
@pytest.mark.requirement("serve.deployments")
def test_agents_become_deployments_with_their_bounds_and_resources(running: Up) -> None:
    deployments = applications(running)["admiralty"]["deployments"]
    assert set(deployments) == {"gateway", "scheduler", "memory", "tides", "greeter"}  # triage is inline
    tides = deployments["tides"]["deployment_config"]
    scaling = tides["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"], scaling["target_ongoing_requests"]) == (1, 3, 7)
    assert tides["ray_actor_options"]["num_cpus"] == 0.03
    assert tides["ray_actor_options"]["memory"] == 300 * 2**20
    assert deployments["gateway"]["target_num_replicas"] == 2


@pytest.mark.ray
@pytest.mark.requirement("serve.yaml")
def test_the_yaml_that_build_writes_is_deployed_beside_the_running_fleet(running: Up, admiralty: Run) -> None:
    built = admiralty(
        "build", "pilots", "-o", "second.yaml", "--name", "second", "--route-prefix", "/second",
        "--home", "second-home", "--port", str(running.port), ADMIRALTY_GATEWAY_REPLICAS="1",
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    key = admiralty("keys", "create", "--home", "second-home").stdout.split()[0]
    address = f"http://127.0.0.1:{running.dashboard_port}"
    environment = running.environment | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(running.home / "ray-token"),
    }
    serve = Path(sys.executable).with_name("serve")
    deployed = subprocess.run(
        [str(serve), "deploy", "second.yaml", "--address", address],
        cwd=running.folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert deployed.returncode == 0, deployed.stderr
    wait_for(
        lambda: (applications(running).get("second") or {}).get("status") in ("RUNNING", "DEPLOY_FAILED"),
        "the second application is deployed",
        150,
    )
    second = applications(running)["second"]
    assert second["status"] == "RUNNING", second["message"]
    with httpx.Client(base_url=f"{running.url}/second", timeout=60) as client:
        wait_for(lambda: client.get("/healthz").status_code == 200, "the ingress knows the second fleet")
        body = {"model": "pilots", "messages": [{"role": "user", "content": "ROUTE:greeter Hello!"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 401
        answer = client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text
    assert applications(running)["admiralty"]["status"] == "RUNNING"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
@pytest.mark.requirement("serve.yaml")
def test_the_shipped_configurations_fit_rays_schemas(root: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import ray
    from ray.serve.schema import ServeDeploySchema

    shipped = yaml.safe_load((root / "deploy" / "serve.yaml").read_text())
    application = ServeDeploySchema.model_validate(shipped).applications[0]
    assert application.import_path == "admiralty.runtime.serve.app:app"

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((root / "ray-cluster.yaml").read_text()), schema)


@pytest.mark.requirement("serve.yaml")
def test_arguments_of_the_shipped_configuration_are_settings(root: Path) -> None:
    from admiralty.core.settings import Settings

    shipped = yaml.safe_load((root / "deploy" / "serve.yaml").read_text())
    arguments = shipped["applications"][0]["args"]
    assert set(arguments) - {"fleet"} <= set(Settings.model_fields)


@pytest.mark.requirement("serve.scheduler_replicas")
def test_the_scheduler_has_as_many_replicas_as_settings_say() -> None:
    from admiralty.core.settings import Settings
    from admiralty.runtime.serve.app import build_app
    from admiralty.runtime.serve.replicas import FleetSpec

    settings = Settings.load(scheduler_replicas=3, redis_url="redis://127.0.0.1:1/0", home="h")
    gateway = build_app(FleetSpec(fleet="fleets.support", settings=settings))._bound_deployment
    replicas = {
        argument._bound_deployment.name: argument._bound_deployment.num_replicas
        for argument in gateway.init_args
        if hasattr(argument, "_bound_deployment")
    }
    assert replicas == {"scheduler": 3, "memory": 1}


@pytest.mark.requirement("serve.yaml")
def test_the_yaml_holds_no_keys_and_no_passwords(tmp_path: Path) -> None:
    from admiralty.core.settings import Settings
    from admiralty.runtime.serve.config import render, serve_config

    values: dict[str, Any] = {
        "home": tmp_path,
        "openai_api_key": "sk-one",
        "provider_keys": {"openai": [{"api_key": "sk-two", "requests_per_minute": 5}]},
        "database_url": "postgresql://me:sk-three@127.0.0.1/x",
        "fallbacks": {"openai:a": ["extractive:desk"]},
    }
    secret = Settings.load(**values, redis_url="redis://:sk-four@127.0.0.1/0")
    text = render(serve_config("fleets.support", secret))
    assert "sk-" not in text
    assert "redis" not in text
    assert "provider_keys" not in text  # hidden ones would be taken for keys
    arguments = serve_config("fleets.support", Settings.load(**values, redis_url="redis://h/0"))
    given = arguments["applications"][0]["args"]
    assert given["redis_url"] == "redis://h/0"
    assert given["fallbacks"] == {"openai:a": ["extractive:desk"]}
