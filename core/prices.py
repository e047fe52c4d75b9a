"""What an operator may say about a model's price, in settings. In dollars; the ledger has nano-dollars."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class PriceOverride(BaseModel):
    """The price of a model: by tokens (``input`` and ``output``), or by time (``dollars_per_hour``).

    Token prices are dollars per million tokens. What is left out costs as much as what it is a part
    of: cached, cache-write and audio tokens as input, reasoning and audio tokens as output. In
    settings numbers or strings: ``{"input": "0.15", "output": 0.6}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Dollars | None = None
    output: Dollars | None = None
    cached: Dollars | None = None
    cache_write: Dollars | None = None
    cache_write_1h: Dollars | None = None
    reasoning: Dollars | None = None
    audio_input: Dollars | None = None
    audio_output: Dollars | None = None
    request: Dollars | None = None
    """Dollars for each request, besides its tokens."""
    dollars_per_hour: Dollars | None = None
    """For models on machines of one's own: the price of an hour of answering."""
    max_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] | None = None
    """How long a call to such a model may take at most: that much is held for it."""
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most output that the model gives."""

    @model_validator(mode="before")
    @classmethod
    def _fields_are_known(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for name in given:
                if name not in cls.model_fields:
                    raise ValueError(f"there is no field {name!r}: take one of {', '.join(cls.model_fields)}")
        return given

    @model_validator(mode="after")
    def _one_kind(self) -> PriceOverride:
        tokens = self.model_fields_set - {"dollars_per_hour", "max_seconds", "max_output_tokens"}
        if self.dollars_per_hour is not None:
            if tokens:
                raise ValueError(
                    f"dollars_per_hour does not go with {', '.join(sorted(tokens))}: "
                    "price the model by time or by tokens"
                )
            if self.max_seconds is None:
                raise ValueError("dollars_per_hour needs max_seconds: how long a call may take at most")
        elif self.max_seconds is not None:
            raise ValueError("max_seconds goes with dollars_per_hour only: leave it out")
        elif self.input is None or self.output is None:
            raise ValueError(
                "give input and output (dollars per million tokens), or dollars_per_hour and max_seconds"
            )
        return self
