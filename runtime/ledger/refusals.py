"""What a caller is told whose call no budget has room for."""

from __future__ import annotations

from admiralty.core.errors import BudgetExceeded
from admiralty.core.money import Nanos, dollars_text
from admiralty.runtime.ledger.decide import Refuse, Wait
from admiralty.runtime.ledger.windows import resets_at


def refusal(why: Wait | Refuse, *, now: float, waited: float = 0.0) -> BudgetExceeded:
    """Return the error that says which budget was short, by how much, and until when."""
    line, budget = why.line, why.line.budget
    limit, spent, held = budget.limit, Nanos(line.counter.spent), Nanos(line.counter.held)
    scope = line.charge.subject or budget.scope
    text = (
        f"The budget {budget.name or budget.id} of {scope} has too little left: "
        f"${dollars_text(why.needed)} needed, ${dollars_text(spent)} spent and ${dollars_text(held)} held "
        f"of ${dollars_text(limit)} ({budget.window})."
    )
    if isinstance(why, Wait):
        text += f" Others held the rest for the {waited:.1f} s that the call could wait."
    return BudgetExceeded(
        text,
        budget_id=budget.id,
        scope=scope,
        window=budget.window,
        limit_usd=dollars_text(limit),
        spent_usd=dollars_text(spent),
        held_usd=dollars_text(held),
        needed_usd=dollars_text(why.needed),
        resets_at=resets_at(budget, now),
    )
