"""Settings: from ``ADMIRALTY_*`` variables, a ``.env`` file, or the command line. Checked at construction.

The only place that reads the environment. One Settings value is built by the composition root and
handed to every process of the fleet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from admiralty.core.accounts import ProviderKey
from admiralty.core.errors import ConfigurationError
from admiralty.core.prices import PriceOverride
from admiralty.core.values import TIERS, Tier

EMBEDDED_MODEL = "extractive:desk"
"""The model that needs no account: composes answers by rules, price 0."""

_OPENAI_MODELS: dict[Tier, str] = {
    "small": "openai:gpt-5.4-nano",
    "mid": "openai:gpt-5.4-mini",
    "frontier": "openai:gpt-5.5",
}
_ANTHROPIC_MODELS: dict[Tier, str] = {
    "small": "anthropic:claude-haiku-4-5",
    "mid": "anthropic:claude-sonnet-5",
    "frontier": "anthropic:claude-opus-5",
}


class Settings(BaseSettings):
    """Everything that an operator may set. Environment variables are the names below in capitals
    after ``ADMIRALTY_``; the providers' own key variables are understood too.
    """

    model_config = SettingsConfigDict(
        env_prefix="ADMIRALTY_",
        env_file=".env",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    home: Path = Path(".admiralty")
    """Folder for everything that is kept: databases, tokens, logs."""
    data: Path | None = None
    """Data for the fleet, as its ``setup`` understands it."""
    database_url: str | None = None
    """``sqlite:///path`` or ``postgresql://...``; by default SQLite in ``home``."""
    sqlite_synchronous: Literal["NORMAL", "FULL"] = "NORMAL"

    host: str = "127.0.0.1"
    """Interface of the API. Keys are always required, so that opening it is no accident."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    dashboard_port: Annotated[int, Field(ge=1, le=65535)] = 8265
    gateway_replicas: Annotated[int, Field(ge=1)] = 2
    max_message_bytes: Annotated[int, Field(ge=1)] = 1_000_000
    """Largest request body that a door takes; larger ones are answered with 413."""
    haproxy: bool = True
    """Serve's HAProxy ingress; ``false`` uses the Python proxy, which needs no binary."""

    models: dict[Tier, str] = Field(default_factory=dict)
    """Model for each tier as ``provider:name``, e.g. ``{"small": "openai:gpt-5.4-nano"}``."""
    openai_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("ADMIRALTY_OPENAI_API_KEY", "OPENAI_API_KEY")
    )
    openai_base_url: str | None = Field(
        None, validation_alias=AliasChoices("ADMIRALTY_OPENAI_BASE_URL", "OPENAI_BASE_URL")
    )
    """Any OpenAI-compatible server: vLLM, llama.cpp, Ray Serve LLM."""
    anthropic_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("ADMIRALTY_ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY")
    )
    provider_timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds without an answer after which a provider counts as unavailable."""
    embedder: str = "auto"
    """``auto``, ``hashing``, ``sentence-transformers`` or ``sentence-transformers:NAME``."""

    provider_keys: dict[str, list[ProviderKey]] = Field(default_factory=dict)
    """Accounts by provider, with their limits: ``{"openai": [{"name": "a", "api_key": "sk-...",
    "requests_per_minute": 500, "tokens_per_minute": 200000}]}``. A provider that is named here has these
    accounts and no others; else it has one, ``default``, without limits."""
    rate_max_waiting: Annotated[int, Field(ge=0)] = 1000
    """Calls that may wait for a provider's accounts; further ones are refused with 429."""
    rate_max_wait_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Expected wait beyond which a call is refused with 429."""
    scheduler_replicas: Annotated[int, Field(ge=1)] = 1
    """Processes that model calls pass; several keep the accounts' limits together in Redis."""
    redis_url: str | None = None
    """``redis://host:6379/0``."""
    redis_namespace: str = "admiralty"
    """Beginning of every key in Redis: one for each installation that shares a server."""

    fallbacks: dict[str, list[str]] = Field(default_factory=dict)
    """Models that stand in for one that fails, in order: ``{"openai:gpt-5.4-mini":
    ["anthropic:claude-haiku-4-5"]}``."""
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 4
    """Attempts of one call, over all models."""
    retry_seconds: Annotated[float, Field(ge=0)] = 0.25
    """Longest random pause before the first repetition; it doubles with each further one."""
    max_retry_seconds: Annotated[float, Field(ge=0)] = 8.0
    """Longest such pause, and longest Retry-After that is waited for while another model stands in."""
    breaker_failures: Annotated[int, Field(ge=1)] = 10
    """Failures in a row, within 30 s, after which an account's model is left alone for a while."""
    breaker_pause_seconds: Annotated[float, Field(gt=0)] = 15.0
    """For how long; twice as long each time that it fails again, up to a minute."""

    policies: Path | None = None
    """Folder with policies of the operator's own, on top of the fleet's and of ours. See docs/policy.md."""
    policy_mode: Literal["enforce", "log"] = "enforce"
    """``log``: denials are recorded, but the calls go through."""

    allow_private_webhooks: bool = False
    """Whether webhooks of budgets may lead to loopback and private addresses."""

    prices: dict[str, PriceOverride] = Field(default_factory=dict)
    """Prices by ``provider:name``, or by its beginning with ``*`` behind it: dollars per million tokens, as
    ``{"openai:my-model": {"input": "0.50", "output": 1.5}}``. They go before the public prices."""
    unknown_model: Literal["refuse", "ceiling"] = "refuse"
    """What becomes of calls to models of unknown price; ``ceiling``: charged as ``unknown_model_prices``."""
    unknown_model_prices: PriceOverride | None = None

    on_disconnect: Literal["drain", "estimate"] = "drain"
    """What becomes of an answer whose client has left: read to its end, so that its usage is known; or
    ended at once, and charged at its worst case: providers may go on, and charge, for a while."""
    drain_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long such an answer is read on."""
    budget_wait_seconds: Annotated[float, Field(ge=0)] = 60.0
    """How long a call without a deadline waits for money that other calls hold."""
    hold_lease_seconds: Annotated[float, Field(ge=1)] = 30.0
    """How long after its process has died a call's money stays held; then its worst case is charged."""
    default_output_tokens: Annotated[int, Field(ge=1)] = 1024
    """Output that an agent's first calls are allowed where nobody wishes anything; then it is learned."""

    durability: Literal["sync", "exit"] = "sync"
    """What of a running turn is kept as it goes: ``sync``, every answer of a model, so that none is paid for
    twice; ``exit``, only what precedes a change of the world."""
    run_lease_seconds: Annotated[float, Field(ge=1)] = 15.0
    """How long after its process was last heard of a turn is taken over by another."""
    run_attempts: Annotated[int, Field(ge=1)] = 4
    """Executions of a turn that breaks off; then it is parked until a person retries it."""
    run_retry_seconds: Annotated[float, Field(ge=0)] = 0.5
    """Pause before the second execution; it doubles with each further one."""
    max_live_runs: Annotated[int, Field(ge=1)] = 256
    """Turns that one process executes at once; a message beyond is refused with 429."""
    max_queued_runs: Annotated[int, Field(ge=0)] = 16
    """Messages that may wait in one conversation; further ones are refused with 429."""
    max_listeners: Annotated[int, Field(ge=1)] = 512
    """Event streams that one process writes at once; one that only follows is refused with 429 beyond."""
    approval_seconds: Annotated[float, Field(gt=0)] = 86_400.0
    """How long a person is waited for where a request does not say it."""
    retention_days: Annotated[float, Field(gt=0)] | None = None
    """Age at which the events and runs of a conversation are removed; the ledger is kept."""
    retention_turns: Annotated[int, Field(ge=1)] | None = None
    """Latest turns of a conversation that are kept; by default all."""
    state_history: Annotated[int, Field(ge=0)] = 100
    """Versions of a shared value that are kept besides the present one."""

    @classmethod
    def load(cls, **values: Any) -> Settings:
        """Build settings; ``values`` win over the environment. Raises ConfigurationError."""
        given = {name: value for name, value in values.items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            problems = "; ".join(_explain(item["loc"], item) for item in error.errors(include_url=False))
            raise ConfigurationError(
                f"Settings: {problems}. They come from ADMIRALTY_* variables, .env or flags."
            ) from None
        except SettingsError as error:  # says which, and not what it was
            raise ConfigurationError(f"Settings: {error}. Lists and tables are written as JSON.") from None

    @model_validator(mode="after")
    def _models_are_named(self) -> Settings:
        for tier, name in self.models.items():
            provider, _, model = name.partition(":")
            if not provider or not model:
                raise ValueError(f"models[{tier!r}] = {name!r}: write provider:name, as in {EMBEDDED_MODEL}")
        if self.openai_base_url and not self.models:
            raise ValueError(
                "openai_base_url is set, but no model is named: "
                "set ADMIRALTY_MODELS__SMALL=openai:NAME to one that the server has"
            )
        return self

    @model_validator(mode="after")
    def _accounts_can_be_told_apart(self) -> Settings:
        for provider, accounts in self.provider_keys.items():
            names = [account.name for account in accounts]
            if not names:
                raise ValueError(f"provider_keys[{provider!r}] names no account: leave it out, or add one")
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(
                    f"provider_keys[{provider!r}] has two accounts named {twice[0]!r}: name each differently"
                )
        if not self.models and any(account.base_url for account in self.provider_keys.get("openai", [])):
            raise ValueError(
                "provider_keys['openai'] has a base_url, but no model is named: "
                "set ADMIRALTY_MODELS__SMALL=openai:NAME to one that the server has"
            )
        return self

    @model_validator(mode="after")
    def _fallbacks_are_named(self) -> Settings:
        for name in (*self.fallbacks, *(other for others in self.fallbacks.values() for other in others)):
            provider, _, model = name.partition(":")
            if not provider or not model:
                raise ValueError(f"fallbacks names {name!r}: write provider:name, as in {EMBEDDED_MODEL}")
        return self

    @model_validator(mode="after")
    def _replicas_share_their_limits(self) -> Settings:
        if self.redis_url and not self.redis_url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("redis_url (not shown): write redis://host:6379/0, rediss://... or unix://...")
        if self.scheduler_replicas > 1 and self.redis_url is None:
            raise ValueError(
                f"scheduler_replicas = {self.scheduler_replicas} needs Redis: each replica by itself would "
                "allow the accounts' whole limits. Set redis_url, or scheduler_replicas to 1"
            )
        return self

    @model_validator(mode="after")
    def _prices_are_named(self) -> Settings:
        for name in self.prices:
            provider, _, model = name.partition(":")
            if not provider or not model or "*" in name[:-1]:
                raise ValueError(
                    f"prices[{name!r}]: write provider:name, or the beginning of one with * behind it, "
                    "as in openai:my-model or openai:*"
                )
        if self.unknown_model == "ceiling" and self.unknown_model_prices is None:
            raise ValueError(
                "unknown_model = 'ceiling' needs a ceiling: set unknown_model_prices to "
                "{'input': ..., 'output': ...}, dollars per million tokens"
            )
        return self

    @property
    def resolved_home(self) -> Path:
        """The home folder, absolute."""
        return self.home.expanduser().resolve()

    @property
    def resolved_database_url(self) -> str:
        """The database's URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.resolved_home / 'admiralty.sqlite3'}"

    @property
    def tier_models(self) -> dict[Tier, str]:
        """The model of every tier: as set, else by the key that is there, else the embedded one.

        With an OpenAI-compatible base URL, the server's models are unknown to us: name at least
        one in ``models``; a tier without one then uses the next higher, else the next lower.
        """
        known: dict[Tier, str] = {}
        if not self.models and self.openai_base_url is None:
            if self.openai_api_key or self._has_key("openai"):
                known = _OPENAI_MODELS
            elif self.anthropic_api_key or self._has_key("anthropic"):
                known = _ANTHROPIC_MODELS
        chosen: dict[Tier, str] = {**known, **self.models}
        result: dict[Tier, str] = {"none": chosen.get("none", EMBEDDED_MODEL)}
        paid = TIERS[1:]
        for position, tier in enumerate(paid):
            nearest = [*paid[position:], *reversed(paid[:position])]
            result[tier] = next((chosen[other] for other in nearest if other in chosen), result["none"])
        return result

    def _has_key(self, provider: str) -> bool:
        return any(account.api_key for account in self.provider_keys.get(provider, []))


def _explain(location: tuple[int | str, ...], item: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in location)
    if not name:  # a check of several settings together: its input is all of them, keys and secrets too
        return str(item["msg"]).removeprefix("Value error, ")
    shown = "(not shown)" if "key" in name or name.endswith("_url") else repr(item.get("input"))
    return f"{name} = {shown}: {item['msg']}"
