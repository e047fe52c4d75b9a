"""The HTTP doors: OpenAI's chat completions, native conversations, the fleet's catalog, operations."""

from admiralty.runtime.api.app import create_app
from admiralty.runtime.api.parts import ApiParts

__all__ = ["ApiParts", "create_app"]
