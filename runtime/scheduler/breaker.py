"""Circuit breakers: who fails again and again is left alone for a while, then tried with one call.

The transitions are pure functions over frozen values; :class:`Breakers` keeps one value for each account and
model, in this process. A success forgets the failures before it, so that a model that fails at times stays
in use; only one that does nothing but fail is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from admiralty.core.errors import ProviderUnavailable
from admiralty.core.ports import Clock


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerRules:
    """When a breaker opens, and for how long. Seconds."""

    failures: int = 10
    """Without a success between them, within ``window``."""
    window: float = 30.0
    pause: float = 15.0
    """How long it is open at first; twice as long each time the trial fails too."""
    longest_pause: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Breaker:
    """One account's one model: closed, open (until a time), or half open (one call tries)."""

    failures: tuple[float, ...] = ()
    """When it failed since its last success, latest last."""
    opened_at: float | None = None
    trips: int = 0
    """How often it opened since its last success."""
    trial_since: float | None = None
    """When the call was let through that decides."""


CLOSED = Breaker()


def wait(breaker: Breaker, now: float, rules: BreakerRules) -> float:
    """Return the seconds until a call may pass: 0 if one may now."""
    if breaker.opened_at is None:
        return 0.0
    pause = _pause(breaker, rules)
    if breaker.trial_since is not None:  # a trial that never ends must not keep it shut for ever
        return max(0.0, breaker.trial_since + pause - now)
    return max(0.0, breaker.opened_at + pause - now)


def admitted(breaker: Breaker, now: float) -> Breaker:
    """Return the breaker with a call under way, which :func:`wait` has allowed."""
    return breaker if breaker.opened_at is None else replace(breaker, trial_since=now)


def failed(breaker: Breaker, now: float, rules: BreakerRules, *, trial: bool) -> Breaker:
    """Return the breaker after a failure; ``trial``: of the call that was let through to decide."""
    if breaker.opened_at is not None:
        if not trial:  # begun before it opened: says nothing new
            return breaker
        return Breaker(opened_at=now, trips=breaker.trips + 1)
    failures = (*(at for at in breaker.failures if at > now - rules.window), now)
    if len(failures) >= rules.failures:
        return Breaker(opened_at=now, trips=1)
    return Breaker(failures=failures)


def abandoned(breaker: Breaker, *, trial: bool) -> Breaker:
    """Return the breaker after a call that nobody waited for to its end: it says nothing."""
    return replace(breaker, trial_since=None) if trial else breaker


def _pause(breaker: Breaker, rules: BreakerRules) -> float:
    return min(rules.longest_pause, rules.pause * 2.0 ** min(breaker.trips - 1, 30))


class Breakers:
    """The breakers of all accounts and models, by name."""

    def __init__(self, clock: Clock, rules: BreakerRules | None = None) -> None:
        self._clock = clock
        self._rules = rules or BreakerRules()
        self._breakers: dict[tuple[str, str], Breaker] = {}  # those that are not simply closed

    def wait(self, account: str, model: str) -> float:
        """Return the seconds until a call of ``model`` may pass; 0 if one may now."""
        breaker = self._breakers.get((account, model))
        return 0.0 if breaker is None else wait(breaker, self._clock.monotonic(), self._rules)

    def admit(self, account: str, model: str) -> bool:
        """Let a call pass; return whether it is the trial that decides.

        Raises ProviderUnavailable with ``retry_after`` while the breaker is open.
        """
        breaker = self._breakers.get((account, model))
        if breaker is None:
            return False
        now = self._clock.monotonic()
        if (seconds := wait(breaker, now, self._rules)) > 0:
            raise open_error(model, seconds)
        self._breakers[account, model] = admitted(breaker, now)
        return breaker.opened_at is not None

    def failed(self, account: str, model: str, *, trial: bool) -> None:
        """Note a failure of the provider."""
        breaker = self._breakers.get((account, model), CLOSED)
        self._breakers[account, model] = failed(breaker, self._clock.monotonic(), self._rules, trial=trial)

    def succeeded(self, account: str, model: str) -> None:
        """Note that the provider answered, whatever it said: it is there."""
        self._breakers.pop((account, model), None)

    def abandoned(self, account: str, model: str, *, trial: bool) -> None:
        """Note that nobody waited for the answer."""
        if breaker := self._breakers.get((account, model)):
            self._breakers[account, model] = abandoned(breaker, trial=trial)


def open_error(model: str, seconds: float) -> ProviderUnavailable:
    """Return what is raised instead of asking ``model``."""
    return ProviderUnavailable(
        f"{model} failed again and again, and is left alone for another {seconds:.0f} s.",
        retry_after=seconds,
        refused="breaker",
    )
