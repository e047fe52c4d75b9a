"""A model provider that needs no model: rules over tool results, passages and examples."""

from admiralty.runtime.providers.extractive.provider import ExtractiveProvider

__all__ = ["ExtractiveProvider"]
