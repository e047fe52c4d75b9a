"""The cases of the overspend benchmark: what is asked of the scheduler, and what goes wrong meanwhile."""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from benchmarks.overspend_audit import INPUT_NANOS, OUTPUT_NANOS

PROMPT_TOKENS: Final = 100
ANSWER_TOKENS: Final = 100
"""What the provider counts for every call, before its factor: all calls cost the same."""

Victim = Literal["worker", "redis", "postgres"]

LEVELS: Final = {"tenant": 1.0, "team": 0.8, "user": 0.6, "conversation": 0.4}
"""What each level's budget is worth, as a share of the tenant's. All together exceed it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run."""

    name: str
    processes: int = 4
    calls: int = 500
    """By all processes together, all at once."""
    worth: int = 50
    """How many calls the tenant's budget pays for, at what the provider bills."""
    output_tokens: int | None = ANSWER_TOKENS
    streaming: bool = False
    leave_early: int = 0
    leave_streams: int = 0
    kill: Victim | None = None
    """What is killed -9 when the provider has been asked half of the calls that fit; servers come back."""
    redis: bool = False
    """Whether rates are kept in Redis, with limits that are never reached."""
    provider: tuple[tuple[str, float], ...] = ()
    """Settings of the mock, besides the usual."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Of Admiralty, besides the usual."""

    @property
    def provider_settings(self) -> dict[str, Any]:
        """How the mock behaves."""
        usual = {
            "delay_ms": 40.0,
            "jitter_ms": 0.0,
            "chunk_delay_ms": 0.0,
            "error_rate": 0.0,
            "error_status": 500,
            "cut_rate": 0.0,
            "usage_factor": 1.0,
            "prompt_tokens": PROMPT_TOKENS,
            "answer_tokens": ANSWER_TOKENS,
        }
        return {**usual, **dict(self.provider)}

    @property
    def price(self) -> int:
        """What the provider bills for a call, in nano-dollars."""
        once = PROMPT_TOKENS * INPUT_NANOS + ANSWER_TOKENS * OUTPUT_NANOS
        return round(once * float(self.provider_settings["usage_factor"]))

    @property
    def limits(self) -> dict[str, int]:
        """The budgets' limits by level, in nano-dollars."""
        return {level: round(self.worth * share) * self.price for level, share in LEVELS.items()}

    def quick(self) -> "Case":
        """The same with fewer calls."""
        return replace(
            self,
            worth=10,
            calls=60,
            processes=min(2, self.processes),
            leave_early=self.leave_early // 5,
            leave_streams=self.leave_streams // 5,
        )


CASES: Final = (
    Case(name="exact estimate"),
    Case(name="2 processes", processes=2),
    Case(name="1 process", processes=1),
    Case(name="no output limit", output_tokens=None),
    Case(name="reports 4x usage", provider=(("usage_factor", 4.0),)),
    # The first answers tell of it while others are still on their way, held for at a quarter of the truth.
    Case(name="4x usage and late answers", provider=(("usage_factor", 4.0), ("jitter_ms", 1500.0))),
    Case(name="streams", streaming=True, provider=(("chunk_delay_ms", 1.0),)),
    Case(name="30% errors", provider=(("error_rate", 0.3),)),
    Case(name="100% errors", provider=(("error_rate", 1.0),)),
    Case(name="30% cut off", streaming=True, provider=(("cut_rate", 0.3),)),
    Case(
        name="40 hang up (drained)",
        streaming=True,
        leave_early=20,
        leave_streams=20,
        provider=(("chunk_delay_ms", 2.0),),
    ),
    Case(
        name="40 hang up (estimated)",
        streaming=True,
        leave_early=20,
        leave_streams=20,
        provider=(("chunk_delay_ms", 2.0),),
        settings=(("on_disconnect", "estimate"),),
    ),
    Case(name="kill -9 a worker", kill="worker", provider=(("delay_ms", 100.0),)),
    Case(name="kill -9 Redis", kill="redis", redis=True),
    Case(name="kill -9 PostgreSQL", kill="postgres", provider=(("delay_ms", 100.0),)),
)
