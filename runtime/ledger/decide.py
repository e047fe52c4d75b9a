"""Whether a call gets its money: pure decisions over what the counters say.

Money that is spent is gone; money that is held may come back, as calls cost less than their holds.
So a call that would fit if all holds came to nothing waits, and one that would not even then is made
smaller, or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from admiralty.core.money import Nanos
from admiralty.runtime.ledger.values import Budget, Charge, Counter, HoldRequest

UNPROVEN_SHARE = 10
"""What calls of unknown price may hold together of the money that is left: one part in so many.

A provider that charges a multiple of what was expected is found out by its first answers; until
then, this bounds the damage.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A budget that a call counts in, and how it stands."""

    budget: Budget
    charge: Charge
    counter: Counter

    @property
    def left(self) -> int:
        """What would be left if nothing that is held were spent."""
        return self.budget.limit - self.counter.spent

    @property
    def free(self) -> int:
        """What nobody has claimed."""
        return self.left - self.counter.held


@dataclass(frozen=True, slots=True)
class Admit:
    """The call may be made, with so much output at most."""

    amount: Nanos
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Wait:
    """The money is there, but held by others, or others wait for it already."""

    line: Line
    needed: Nanos


@dataclass(frozen=True, slots=True)
class Refuse:
    """The money is spent."""

    line: Line
    needed: Nanos


Verdict = Admit | Wait | Refuse


def decide(request: HoldRequest, lines: Sequence[Line], *, behind: Line | None = None) -> Verdict:
    """Return whether ``request`` is admitted, waits or is refused.

    ``behind`` is a line on which somebody waits who was there before. The output shrinks from what is
    wanted down to the floor where what is *spent* leaves no more; what is held does not shrink it.
    """
    hard = [line for line in lines if line.budget.hard]
    if not hard:
        return Admit(price(request, request.wanted), request.wanted)
    tightest = min(hard, key=lambda line: line.left)
    least = price(request, min(request.floor, request.wanted))
    if least > tightest.left:
        return Refuse(tightest, least)
    output = min(request.wanted, _output_within(request, tightest.left))
    amount = price(request, output)
    if behind is not None:
        return Wait(behind, amount)
    for line in hard:
        if amount > line.free - _hidden(request, line) or (request.unproven and not _may_try(line, amount)):
            return Wait(line, amount)
    return Admit(amount, output)


def price(request: HoldRequest, output_tokens: int) -> Nanos:
    """Return what is held for so much output: the quote, times what such calls have cost above theirs."""
    quoted = request.quote.amount(output_tokens)
    if request.factor == 1.0:
        return quoted
    factor = Fraction(request.factor)
    return Nanos(-(-quoted * factor.numerator // factor.denominator))


def _output_within(request: HoldRequest, amount: int) -> int:
    """Return the most output whose price is within ``amount``."""
    factor = Fraction(request.factor)
    output = request.quote.output_within(amount * factor.denominator // factor.numerator)
    while output > 0 and price(request, output) > amount:  # rounded up twice
        output -= 1
    return output


def _hidden(request: HoldRequest, line: Line) -> int:
    """Return what calls of unknown price will cost above their holds, if they cost as such calls have.

    The first answer tells that a provider counts several times the expected, while others are on their way.
    """
    if request.factor == 1.0:
        return 0
    above = Fraction(request.factor) - 1
    return -(-line.counter.unproven * above.numerator // above.denominator)


def _may_try(line: Line, amount: int) -> bool:
    unproven = line.counter.unproven
    return unproven == 0 or unproven + amount <= line.left // UNPROVEN_SHARE


def in_order(request: HoldRequest, since: float) -> tuple[int, float, str]:
    """Return a call's place among those who wait: by priority, then by arrival."""
    return (-request.priority, since, request.id)
