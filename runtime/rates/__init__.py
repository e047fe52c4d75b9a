"""Rates: what a provider's accounts allow in a minute, and in which order calls wait for it.

``bucket`` and ``fair`` decide and know neither clock nor network; ``local`` and ``redis_limiter`` are the
adapters of :class:`admiralty.core.ports.Limiter`; ``lane`` is where calls wait. Nothing here knows models,
money or policies.
"""

from admiralty.runtime.rates.bucket import Limits
from admiralty.runtime.rates.fair import FairQueue, Ticket
from admiralty.runtime.rates.lane import Bounds, Lane
from admiralty.runtime.rates.local import LocalLimiter

__all__ = ["Bounds", "FairQueue", "Lane", "Limits", "LocalLimiter", "Ticket"]
