"""Providers' keys reach the scheduler's replicas and no other process."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from admiralty.core.settings import Settings
from admiralty.runtime.serve.app import build_app
from admiralty.runtime.serve.replicas import FleetSpec
from admiralty.runtime.serve.secrets import forget_given_keys, forget_keys, without_keys, without_secrets

from .conftest import KEY, Up

SETTINGS = {
    "openai_api_key": "sk-one",
    "anthropic_api_key": "sk-two",
    "provider_keys": {"openai": [{"name": "a", "api_key": "sk-one-a"}]},
    "redis_url": "redis://:sk-four@127.0.0.1/0",
    "database_url": "postgresql://me:sk-three@127.0.0.1/x",
    "home": "h",
}


@pytest.fixture
def settings() -> Settings:
    return Settings.load(**SETTINGS)


@pytest.mark.requirement("only_way.keys")
def test_settings_for_agents_hold_no_secret_and_say_the_same_of_models(settings: Settings) -> None:
    bare, keyless = without_secrets(settings), without_keys(settings)
    assert b"sk-" in pickle.dumps(settings)
    assert b"sk-" not in pickle.dumps(bare)
    assert b"sk-one" not in pickle.dumps(keyless)
    assert keyless.database_url == settings.database_url, "the gateway keeps conversations"
    for given in (bare, keyless):
        assert given.tier_models == settings.tier_models
        assert given.home == settings.home


@pytest.mark.requirement("only_way.keys")
def test_keys_are_removed_from_an_environment_and_nothing_else() -> None:
    kept = {"PATH": "/bin", "WEATHER_API_KEY": "of a tool", "ADMIRALTY_PORT": "1", "GROQ_API_KEY": "a tool's"}
    keys = {"OPENAI_API_KEY": "sk", "ADMIRALTY_OPENAI_API_KEY": "sk", "anthropic_api_key": "sk"}
    keys |= {"ADMIRALTY_PROVIDER_KEYS": "{}", "ADMIRALTY_PROVIDER_KEYS__OPENAI": "[]"}
    environment = {**kept, **keys, "MISTRAL_API_KEY": "sk"}
    settings = Settings.load(openai_api_key="sk", models={"small": "mistralai:small"})
    forget_given_keys(environment)
    assert environment == {**kept, "MISTRAL_API_KEY": "sk"}, "that one is in no setting"
    forget_keys(environment, settings)
    assert environment == kept


def bound(application: Any) -> Iterator[tuple[str, FleetSpec]]:
    """Yield every deployment of an application with the spec that it is given."""
    deployment = application._bound_deployment
    for argument in deployment.init_args:
        if isinstance(argument, FleetSpec):
            yield deployment.name, argument
        elif isinstance(argument, dict):
            for one in argument.values():
                yield from bound(one)
        elif hasattr(argument, "_bound_deployment"):
            yield from bound(argument)


@pytest.mark.requirement("only_way.keys")
def test_of_all_deployments_only_the_scheduler_is_given_keys(settings: Settings) -> None:
    specs = dict(bound(build_app(FleetSpec(fleet="fleets.support", settings=settings))))
    holders = {name for name, spec in specs.items() if b"sk-one" in pickle.dumps(spec)}
    assert holders == {"scheduler"}
    assert {name for name, spec in specs.items() if b"sk-three" in pickle.dumps(spec)} == {
        "scheduler",
        "gateway",
    }
    assert len(specs) > 3


@pytest.mark.ray
@pytest.mark.requirement("only_way.keys")
def test_no_process_of_the_cluster_inherits_the_key_that_its_calls_are_made_with(
    running: Up, client: httpx.Client
) -> None:
    answer = client.post(
        "/v1/chat/completions",
        json={"model": "pilots/greeter", "messages": [{"role": "user", "content": "hello"}]},
    )
    assert answer.status_code == 200
    assert running.environment["OPENAI_API_KEY"] == KEY
    inside = running.processes() - {running.pid}
    assert set(running.replicas("greeter")) <= inside
    for pid in inside:
        assert KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes(), pid
