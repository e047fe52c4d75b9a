"""What an operator may say about accounts at model providers, in settings: their keys and their limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ProviderKey(BaseModel):
    """One of a provider's accounts.

    In settings: ``{"name": "a", "api_key": "sk-...", "requests_per_minute": 500}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "default"
    """How it is called in Redis and in logs: the key itself is never shown."""
    api_key: SecretStr | None = None
    """Not set: that of the provider's own setting, such as ``openai_api_key``."""
    base_url: str | None = None
    """Not set: that of the provider's own setting."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Not set: no limit is kept here; what the provider says is honoured all the same."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Input and output together."""
