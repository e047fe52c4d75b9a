"""Settings: from the environment or given, checked at once, and never telling a secret."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from admiralty.core.errors import ConfigurationError
from admiralty.core.settings import EMBEDDED_MODEL, Settings
from admiralty.core.values import TIERS, Tier


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.requirement("settings.keyless")
def test_without_any_key_every_tier_is_the_embedded_model() -> None:
    assert Settings.load().tier_models == dict.fromkeys(TIERS, EMBEDDED_MODEL)


@pytest.mark.requirement("settings.keys")
@pytest.mark.parametrize(
    ("variable", "vendor"), [("OPENAI_API_KEY", "openai"), ("ANTHROPIC_API_KEY", "anthropic")]
)
def test_a_vendors_key_in_the_environment_gives_every_paid_tier_its_model(
    monkeypatch: pytest.MonkeyPatch, variable: str, vendor: str
) -> None:
    monkeypatch.setenv(variable, "sk-1")
    models = Settings.load().tier_models
    assert models["none"] == EMBEDDED_MODEL
    assert {models[tier].partition(":")[0] for tier in TIERS[1:]} == {vendor}
    assert len({models[tier] for tier in TIERS[1:]}) == 3


@given(
    st.dictionaries(
        st.sampled_from(TIERS[1:]), st.sampled_from(["openai:a", "openai:b", "anthropic:c"]), min_size=1
    )
)
@pytest.mark.requirement("settings.tiers")
def test_a_tier_without_a_model_uses_the_next_higher_else_the_next_lower(models: dict[Tier, str]) -> None:
    chosen = Settings.load(models=models).tier_models
    assert set(chosen) == set(TIERS)
    for tier in TIERS[1:]:
        position = TIERS.index(tier)
        above = [other for other in TIERS[position:] if other in models]
        below = [other for other in TIERS[1:position] if other in models]
        assert chosen[tier] == models[above[0] if above else below[-1]]


@pytest.mark.requirement("settings.environment")
def test_settings_come_from_variables_and_dotenv_and_given_values_win(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("ADMIRALTY_PORT=8001\nADMIRALTY_HOME=from-dotenv\nUNRELATED=1\n")
    monkeypatch.setenv("ADMIRALTY_HOME", "from-variable")
    monkeypatch.setenv("ADMIRALTY_MODELS__SMALL", "openai:tiny")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    settings = Settings.load(port=None, dashboard_port=9000)
    assert (settings.port, settings.home, settings.dashboard_port) == (8001, Path("from-variable"), 9000)
    assert settings.tier_models["frontier"] == "openai:tiny"
    assert Settings.load(port=8002).port == 8002


def test_the_default_database_lies_in_the_home_folder(tmp_path: Path) -> None:
    assert (
        Settings.load(home="x").resolved_database_url == f"sqlite:///{tmp_path / 'x' / 'admiralty.sqlite3'}"
    )
    assert Settings.load(database_url="sqlite://").resolved_database_url == "sqlite://"


@pytest.mark.requirement("settings.errors")
@pytest.mark.parametrize(
    ("values", "key", "value", "remedy"),
    [
        ({"port": 70000}, "port", "70000", "less than or equal to 65535"),
        ({"models": {"tiny": "openai:x"}}, "models.tiny", "tiny", "none"),
        ({"models": {"small": "gpt"}}, "models['small']", "'gpt'", "write provider:name"),
        ({"openai_base_url": "http://x/v1"}, "openai_base_url", "", "ADMIRALTY_MODELS__SMALL=openai:NAME"),
        ({"provider_timeout": 0}, "provider_timeout", "0", "greater than 0"),
        ({"sqlite_synchronous": "OFF"}, "sqlite_synchronous", "'OFF'", "NORMAL"),
        ({"scheduler_replicas": 2}, "scheduler_replicas", "2", "Set redis_url"),
        ({"redis_url": "http://x"}, "redis_url", "", "redis://host:6379/0"),
        ({"fallbacks": {"openai:a": ["b"]}}, "fallbacks", "'b'", "write provider:name"),
        ({"provider_keys": {"openai": []}}, "provider_keys", "'openai'", "add one"),
        (
            {"provider_keys": {"openai": [{"name": "a"}, {"name": "a"}]}},
            "provider_keys",
            "'a'",
            "name each differently",
        ),
        (
            {"provider_keys": {"openai": [{"base_url": "http://x/v1"}]}},
            "provider_keys",
            "base_url",
            "ADMIRALTY_MODELS__SMALL=openai:NAME",
        ),
        (
            {"provider_keys": {"openai": [{"requests_per_minute": 0}]}},
            "provider_keys.openai.0.requests_per_minute",
            "",
            "greater than or equal to 1",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_key_value_and_remedy(
    values: dict[str, Any], key: str, value: str, remedy: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(**values)
    for part in (key, value, remedy, "ADMIRALTY_*"):
        assert part in str(refused.value)


@pytest.mark.requirement("settings.secrets")
@pytest.mark.parametrize(
    "values",
    [
        {"openai_api_key": "sk-secret", "openai_base_url": "http://x/v1"},
        {"anthropic_api_key": ["sk-secret"]},
        {"openai_api_key": "sk-secret", "port": 0},
        {"database_url": ["postgresql://me:sk-secret@host/name"]},
        {"redis_url": "http://me:sk-secret@host"},
        {"redis_url": ["redis://me:sk-secret@host"]},
        {"provider_keys": {"openai": [{"api_key": "sk-secret", "limit": 3}]}},
        {"provider_keys": {"openai": [{"api_key": ["sk-secret"]}]}},
        {"provider_keys": {"openai": [{"api_key": "sk-secret"}] * 2}},
        {"provider_keys": {"openai": [{"api_key": "a", "base_url": "http://me:sk-secret@host"}]}},
    ],
)
def test_an_error_never_shows_a_secret(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(**values)
    assert "sk-secret" not in str(refused.value)


@pytest.mark.requirement("settings.secrets")
def test_settings_are_frozen_pickle_and_hide_keys() -> None:
    settings = Settings.load(openai_api_key="sk-secret")
    assert "sk-secret" not in repr(settings)
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.requirement("settings.secrets")
def test_accounts_come_from_a_variable_that_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIRALTY_PROVIDER_KEYS", '{"openai": [{"name": "a", "api_key": "sk-secret"}]}')
    settings = Settings.load()
    (account,) = settings.provider_keys["openai"]
    assert account.api_key is not None
    assert account.api_key.get_secret_value() == "sk-secret"
    assert settings.tier_models["small"].startswith("openai:")
    assert "sk-secret" not in repr(settings)
    monkeypatch.setenv("ADMIRALTY_PROVIDER_KEYS", '{"openai": [{"api_key": "sk-secret"}')
    with pytest.raises(ConfigurationError, match=r"provider_keys.*as JSON") as refused:
        Settings.load()
    assert "sk-secret" not in str(refused.value)
    assert refused.value.__cause__ is None
