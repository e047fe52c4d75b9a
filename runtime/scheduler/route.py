"""Stage: choose the model. Here by a fixed table of tiers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace

from admiralty.core.errors import ConfigurationError
from admiralty.core.ports import AnswerStream
from admiralty.core.values import TIERS, Model, Tier
from admiralty.runtime.scheduler.pipeline import Attempt, Next


class Route:
    """Sends each tier to the model that the settings name for it."""

    def __init__(self, tier_models: Mapping[Tier, str]) -> None:
        if missing := [tier for tier in TIERS if tier not in tier_models]:
            raise ConfigurationError(f"models has no entry for tier {missing[0]!r}.")
        self._models = {
            tier: Model(provider=name.partition(":")[0], name=name.partition(":")[2], tier=tier)
            for tier, name in tier_models.items()
        }

    async def __call__(self, attempt: Attempt, following: Next) -> AnswerStream:
        routed = replace(attempt, model=self._models[attempt.call.tier])
        async with aclosing(following(routed)) as stream:
            async for chunk in stream:
                yield chunk
