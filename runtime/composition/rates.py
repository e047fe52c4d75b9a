"""Accounts at providers: which there are, what they allow, and the limiter that keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from admiralty.core.accounts import ProviderKey
from admiralty.core.errors import ConfigurationError
from admiralty.core.ports import Clock, Limiter
from admiralty.core.settings import Settings
from admiralty.runtime.rates import Bounds, Limits, LocalLimiter
from admiralty.runtime.scheduler.breaker import BreakerRules, Breakers
from admiralty.runtime.scheduler.dispatch import Providers
from admiralty.runtime.scheduler.rate import Rate
from admiralty.runtime.scheduler.retry import Patience
from admiralty.runtime.scheduler.route import Route


def providers_in_use(settings: Settings) -> list[str]:
    """Return the names of the providers that calls can reach, sorted."""
    models = [*settings.tier_models.values(), *(name for own in settings.fallbacks.values() for name in own)]
    return sorted({model.partition(":")[0] for model in models})


def accounts_of(settings: Settings, provider: str) -> Sequence[ProviderKey]:
    """Return a provider's accounts: as set, else the one that its own settings make."""
    return settings.provider_keys.get(provider) or [ProviderKey()]


def build_breakers(settings: Settings, clock: Clock) -> Breakers:
    """Build the breakers, which rate and dispatch share."""
    rules = BreakerRules(failures=settings.breaker_failures, pause=settings.breaker_pause_seconds)
    return Breakers(clock, rules)


def build_route(settings: Settings, clock: Clock) -> Route:
    """Build the stage that chooses models."""
    patience = Patience(
        attempts=settings.max_attempts,
        pause=settings.retry_seconds,
        longest_pause=settings.max_retry_seconds,
    )
    return Route(settings.tier_models, clock, fallbacks=settings.fallbacks, patience=patience)


def build_rate(settings: Settings, providers: Providers, breakers: Breakers, clock: Clock) -> Rate:
    """Build the stage that keeps the accounts' limits. Its ``start`` and ``close`` must be called."""
    keys: dict[str, list[str]] = {}
    for provider, key in providers:
        keys.setdefault(provider, []).append(key)
    limits = limits_of(settings)
    bounds = Bounds(waiting=settings.rate_max_waiting, seconds=settings.rate_max_wait_seconds)
    return Rate(keys, limits, build_limiter(settings, limits, clock), breakers, clock, bounds=bounds)


def limits_of(settings: Settings) -> dict[str, Limits]:
    """Return what each account allows, by ``provider/key``."""
    return {
        f"{provider}/{account.name}": Limits(
            requests_per_minute=account.requests_per_minute, tokens_per_minute=account.tokens_per_minute
        )
        for provider, accounts in settings.provider_keys.items()
        for account in accounts
    }


def build_limiter(settings: Settings, limits: Mapping[str, Limits], clock: Clock) -> Limiter:
    """Build the limiter: in this process for one scheduler, in Redis for several."""
    if settings.scheduler_replicas == 1 or settings.redis_url is None:
        return LocalLimiter(limits, clock)
    if find_spec("redis") is None:
        raise ConfigurationError(
            f"scheduler_replicas = {settings.scheduler_replicas} needs Redis's client: "
            "pip install 'admiralty[redis]'."
        )
    from admiralty.runtime.rates.redis_limiter import RedisLimiter

    return RedisLimiter(
        settings.redis_url,
        limits,
        clock,
        replicas=settings.scheduler_replicas,
        namespace=settings.redis_namespace,
    )
