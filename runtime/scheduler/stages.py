"""The stages of a model call, in their order: the one place where it can be read.

Outermost first. A call passes down the list and its answer comes back up, so that what settles stands
behind what holds, and what records stands before everything.
"""

from __future__ import annotations

from admiralty.runtime.scheduler.dispatch import Dispatch
from admiralty.runtime.scheduler.hold import Hold
from admiralty.runtime.scheduler.journal import StepJournal
from admiralty.runtime.scheduler.pipeline import Stage
from admiralty.runtime.scheduler.policy import PolicyStage
from admiralty.runtime.scheduler.rate import Rate
from admiralty.runtime.scheduler.record import Record
from admiralty.runtime.scheduler.route import Route
from admiralty.runtime.scheduler.settle import Settle


def default_stages(
    *,
    record: Record,
    route: Route,
    policy: PolicyStage,
    hold: Hold,
    settle: Settle,
    journal: StepJournal,
    rate: Rate,
    dispatch: Dispatch,
) -> list[Stage]:
    """Return the stages of a model call, in order."""
    return [
        record,  # metrics of the call as a whole
        route,  # which model; asks what follows again for each attempt
        policy,  # may this agent ask this model, for this user, now
        # The places of the exact and the semantic cache: what is denied is not answered from them either,
        # and what they answer costs nothing.
        hold,  # set the worst case aside in every budget
        settle,  # pay for what was used, whatever becomes of the rest
        journal,  # keep the reply for its run; settle passes none on before that is done
        rate,  # wait for a place at a provider's account
        dispatch,  # ask it
    ]
