"""Effects once: what tools do to the world is written down before and after, and never done twice."""

from admiralty.runtime.effects.book import EffectBook
from admiralty.runtime.effects.values import Begun, EffectRow, EffectStatus

__all__ = ["Begun", "EffectBook", "EffectRow", "EffectStatus"]
