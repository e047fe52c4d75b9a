"""What to do when an attempt has failed: again, another model, a lower tier, or give up. Pure decisions.

========================================  ===============================================================
what failed                               what is next
========================================  ===============================================================
provider busy or unavailable              the same model after a pause, then those that stand in for it
queue full, breaker open (refused here)   one that stands in, at once
provider rejects account or model         one that stands in, at once (HTTP 401, 403, 404)
money is short (BudgetExceeded)           a lower tier, as far down as the call allows
anything else                             nothing: the answer would be the same, or is not ours to dodge
========================================  ===============================================================

Nothing is tried again once the caller has seen text, and nothing beyond its deadline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from admiralty.core.errors import (
    AdmiraltyError,
    BudgetExceeded,
    ConfigurationError,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
)
from admiralty.core.values import TIERS, Model, Tier

REFUSED = "refused"
"""Key of an error's details: what here said no before a provider was asked (``queue``, ``breaker``)."""

PROVIDER_STATUS = "provider_status"
"""Key of an error's details: the HTTP status of a provider's rejection."""

_ELSEWHERE = frozenset({401, 403, 404})
"""Statuses that blame the account or the model, not the request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How much is tried. Seconds."""

    attempts: int = 4
    """Of one call, over all models."""
    repeats: int = 1
    """Of the same model, while there is another that stands in for it."""
    pause: float = 0.25
    """The first pause is random up to this, each further one up to twice the last."""
    longest_pause: float = 8.0
    """Also: the longest a provider may ask us to wait while another model stands in for it."""
    longest_wait: float = 60.0
    """The longest a provider may ask us to wait at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """Which models there are: one for each tier, and those that stand in for a model, in order."""

    tiers: Mapping[Tier, Model]
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids by id; each list holds everything that can be reached, once: see :func:`chains`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The next attempt."""

    model: Model
    pause: float = 0.0
    """Seconds to wait before it."""


def models_of(tier_models: Mapping[Tier, str], fallbacks: Mapping[str, Sequence[str]]) -> Models:
    """Return the table of models. Raises ConfigurationError for a tier that has none."""
    if missing := [tier for tier in TIERS if tier not in tier_models]:
        raise ConfigurationError(f"models has no entry for tier {missing[0]!r}.")
    return Models(
        tiers={tier: _model(name, tier) for tier, name in tier_models.items()}, fallbacks=chains(fallbacks)
    )


def chains(fallbacks: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return for each model all that stand in for it, nearest first: also through others, but none twice."""
    whole: dict[str, tuple[str, ...]] = {}
    for start in fallbacks:
        found: list[str] = [start]
        for model in found:  # grows while it is read
            found.extend(dict.fromkeys(name for name in fallbacks.get(model, ()) if name not in found))
        whole[start] = tuple(found[1:])
    return whole


def what_next(
    error: AdmiraltyError,
    *,
    tried: Sequence[Model],
    models: Models,
    lowest: Tier,
    seen: bool,
    left: float | None,
    draw: float,
    patience: Patience,
) -> Step | None:
    """Return what to try after ``error``, or None to give up.

    ``tried``: the models asked so far, in order; the last one failed. ``lowest``: the tier below which the
    call must not go. ``seen``: whether the caller has got anything of an answer. ``left``: seconds to its
    deadline. ``draw``: a random number from 0 up to 1, for the jitter.
    """
    if seen or len(tried) >= patience.attempts or (left is not None and left <= 0):
        return None
    if isinstance(error, BudgetExceeded):
        return _lower(tried, models, lowest)
    other = _stand_in(tried, models)
    if isinstance(error, ProviderRejected):
        return other if error.details.get(PROVIDER_STATUS) in _ELSEWHERE else None
    if not isinstance(error, RateLimited | ProviderUnavailable):
        return None
    if error.details.get(REFUSED):
        return other
    times = tried.count(tried[-1])
    if other is not None and times > patience.repeats:
        return other
    told = error.retry_after or 0.0
    longest = patience.longest_wait if other is None else patience.longest_pause
    # Full jitter, on top of what the provider asks for: those who failed together do not come back together.
    pause = told + draw * min(patience.longest_pause, patience.pause * 2 ** (times - 1))
    if told <= longest and pause < (inf if left is None else left):
        return Step(model=tried[-1], pause=pause)
    return other


def _stand_in(tried: Sequence[Model], models: Models) -> Step | None:
    known = {model.id for model in tried}
    tier = tried[-1].tier
    for name in models.fallbacks.get(models.tiers[tier].id, ()):
        if name not in known:
            return Step(model=_model(name, tier))
    return None


def _lower(tried: Sequence[Model], models: Models, lowest: Tier) -> Step | None:
    known = {model.id for model in tried}
    for tier in reversed(TIERS[TIERS.index(lowest) : TIERS.index(tried[-1].tier)]):
        if models.tiers[tier].id not in known:
            return Step(model=models.tiers[tier])
    return None


def _model(name: str, tier: Tier) -> Model:
    provider, _, rest = name.partition(":")
    return Model(provider=provider, name=rest, tier=tier)
