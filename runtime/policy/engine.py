"""Cedar behind the Policy port: an Access becomes a Cedar request, the answer a Decision.

Knows nothing of databases: what a decision is based on stands in the Access and in the bundle.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import cedarpy

from admiralty.agents import Agent, Fleet
from admiralty.core.clock import SystemClock
from admiralty.core.errors import ConfigurationError
from admiralty.core.ports import Clock
from admiralty.core.settings import Settings
from admiralty.core.values import TIERS, Access, Caller, Decision, Identity
from admiralty.runtime.policy.bundle import ACTIONS, APPROVED_ACTION, PERSON, Bundle, Rule, load_bundle
from admiralty.runtime.policy.context import CONVERSATION_FACTS, UnfitFact, build_context, user_name
from admiralty.runtime.policy.mentions import Mentions
from admiralty.runtime.policy.stock import (
    TOLD,
    UNKNOWN,
    AgentFacts,
    agent_entity,
    resource_entity,
    resource_type,
    uid,
)
from admiralty.tools import Tool

logger = logging.getLogger(__name__)

MAX_ENTITIES = 1024
"""Pairs of an agent and a resource whose entities are kept parsed."""

MAX_DECIDED = 4096
"""Answers that are remembered. A decision is a pure function of its request, and a conversation asks the
same again and again; Cedar takes 20 to 100 us to read the request and decide."""

FOLDER = "policies"
"""Of a fleet's own folder: where its policies lie."""

Evaluate = Callable[..., Any]
PolicyMode = Literal["enforce", "log"]


class CedarPolicy:
    """Decides by one bundle, for the agents of one fleet. A changed bundle needs a new one."""

    def __init__(
        self,
        bundle: Bundle,
        agents: Mapping[str, AgentFacts],
        *,
        fleet: str = "fleet",
        enforced: bool = True,
        clock: Clock | None = None,
        evaluate: Evaluate = cedarpy.is_authorized,
    ) -> None:
        """Check that the bundle's schema fits what will be asked. Raises ConfigurationError if not.

        ``agents`` are the fleet's, by ``fleet.agent``. Not ``enforced``, denials are only told.
        """
        self.bundle = bundle
        self.enforced = enforced
        self._agents = agents
        self._clock = clock or SystemClock()
        self._evaluate = evaluate
        self._entities: dict[tuple[Any, ...], cedarpy.Entities] = {}
        self._decided: dict[tuple[str, tuple[Any, ...], str], Decision] = {}
        self._check(fleet)

    @classmethod
    def of(cls, settings: Settings, fleet: Fleet) -> CedarPolicy:
        """Load the policy that settings and fleet name. Raises ConfigurationError."""
        bundle = load_bundle(fleet=fleet.directory / FOLDER, operator=settings.policies)
        return cls(bundle, agent_facts(fleet), fleet=fleet.name, enforced=settings.policy_mode == "enforce")

    @property
    def mode(self) -> PolicyMode:
        """What becomes of a denial."""
        return "enforce" if self.enforced else "log"

    @property
    def needs_conversation(self) -> bool:
        """Whether a policy reads what the conversation has asked and spent so far."""
        return any(mentions.conversation for mentions in self.bundle.mentions.values())

    def reads_conversation(self, access: Access) -> bool:
        """Return whether a policy on this action reads it."""
        mentions = self.bundle.mentions.get(access.action)
        return mentions is not None and mentions.conversation

    def decide(self, access: Access) -> Decision:
        return self.decide_at(access, self._clock.now())

    def decide_at(self, access: Access, at: float) -> Decision:
        """Decide as at ``at``, in seconds since the epoch."""
        try:
            return self._decide(access, at)
        except (KeyboardInterrupt, SystemExit):
            raise
        except UnfitFact as error:
            return self._denied(str(error))
        except BaseException as error:  # a panic of Cedar's is no Exception
            logger.exception("the policy could not decide on %s (access %s)", access.action, access.id)
            return self._denied(f"{type(error).__name__}: {error}")

    def _decide(self, access: Access, at: float) -> Decision:
        mentions = self.bundle.mentions[access.action]
        who = principal(access)
        context = build_context(access, mentions, self.bundle.facts, at)
        text = json.dumps(context) if context else ""
        # All that the request is made of, and all that its entities are made of.
        caller = access.caller
        about = (caller.fleet, caller.agent, caller.agent_version, access.action, access.resource)
        key = (*about, int(access.price), *map(access.attributes.get, TOLD))
        if (decided := self._decided.get((who["id"], key, text))) is not None:
            return decided
        request: dict[str, Any] = {
            "principal": who,
            "action": uid("Action", access.action),
            "resource": uid(resource_type(access), access.resource),
        }
        if text:  # without a context, Cedar saves half the time that it takes to decide
            request["context"] = text
        known = self._known(key, access)
        result = self._evaluate(request, self.bundle.policies, known)
        # Cedar skips a policy that fails: a forbid that fails would not forbid.
        errors = tuple(result.diagnostics.errors)
        rules = [self.bundle.rules[name] for name in sorted(result.diagnostics.reasons)]
        allowed = result.decision is cedarpy.Decision.Allow and not errors
        asks = not (allowed or errors) and access.action == APPROVED_ACTION
        decision = Decision(
            allowed=allowed,
            reasons=tuple(rule.reason for rule in rules),
            errors=errors,
            bundle=self.bundle.hash,
            enforced=self.enforced,
            approval=self._approval(rules, request, context, known) if asks else "",
        )
        if not mentions.conversation:  # what was spent is never the same again
            if len(self._decided) >= MAX_DECIDED:
                self._decided.clear()
            self._decided[who["id"], key, text] = decision
        return decision

    def _approval(
        self,
        rules: Sequence[Rule],
        request: Mapping[str, Any],
        context: Mapping[str, Any],
        known: cedarpy.Entities,
    ) -> str:
        """Return why a person is asked about a denied call: empty where their yes would not help."""
        if not rules or not all(rule.approval for rule in rules):
            return ""
        approved = json.dumps({**context, "approvals": [*context["approvals"], PERSON]})
        result = self._evaluate({**request, "context": approved}, self.bundle.policies, known)
        # Nobody is asked in vain: it may be that no policy permits it either.
        if result.decision is not cedarpy.Decision.Allow or result.diagnostics.errors:
            return ""
        return "; ".join(dict.fromkeys(rule.approval for rule in rules))

    def _denied(self, error: str) -> Decision:
        return Decision(allowed=False, errors=(error,), bundle=self.bundle.hash, enforced=self.enforced)

    def _known(self, key: tuple[Any, ...], access: Access) -> cedarpy.Entities:
        """Return the entities of a request, parsed: there are few agents and few resources."""
        found = self._entities.get(key)
        if found is None:
            made = [resource_entity(access)]
            if access.caller.agent:
                made.append(agent_entity(access, self._agents.get(_agent(access), UNKNOWN)))
            found = self.bundle.entities.with_added_json_str(json.dumps(made))
            if len(self._entities) >= MAX_ENTITIES:
                self._entities.clear()
            self._entities[key] = found
        return found

    def _check(self, fleet: str) -> None:
        """Ask one question for each action, with all that can be in its context, under the schema."""
        everything, no_policies = Mentions(everything=True), cedarpy.PolicySet.from_str("")
        for access in _samples(fleet, self._agents):
            made = [resource_entity(access), agent_entity(access, self._agents.get(_agent(access), UNKNOWN))]
            request = {
                "principal": principal(access),
                "action": uid("Action", access.action),
                "resource": uid(resource_type(access), access.resource),
                "context": build_context(access, everything, {}, 0.0),
            }
            problem = ""
            try:
                cedarpy.Entities.from_json_str(json.dumps(made), self.bundle.schema)
                result = cedarpy.is_authorized(request, no_policies, "[]", self.bundle.schema)
                problem = "; ".join(result.diagnostics.errors)
            except ValueError as error:
                problem = str(error)
            if problem:
                raise ConfigurationError(
                    f"policies: schema.cedarschema does not fit what is asked about {access.action} by "
                    f"{_agent(access)}: {problem}. Keep the types, attributes and actions of the schema that "
                    "it replaces, and add to them; facts of the session must be optional (`name?: String`)."
                )


def principal(access: Access) -> Mapping[str, str]:
    """Return who acts: the agent, or the person where no agent is involved."""
    caller = access.caller
    if caller.agent:
        return uid("Agent", _agent(access))
    return uid("User", user_name(caller.identity))


def _agent(access: Access) -> str:
    return f"{access.caller.fleet}.{access.caller.agent}"


def agent_facts(fleet: Fleet) -> Mapping[str, AgentFacts]:
    """Return what policies are told of a fleet's agents."""
    return {f"{fleet.name}.{agent.name}": _facts(agent) for agent in fleet.agents}


def _facts(agent: Agent) -> AgentFacts:
    return AgentFacts(
        tier=agent.tier, tools=tuple(tool.name for tool in agent.tools if isinstance(tool, Tool))
    )


def _samples(fleet: str, agents: Mapping[str, AgentFacts]) -> Iterable[Access]:
    """Return a question for each action, by each agent."""
    for name in agents or {f"{fleet}.agent": UNKNOWN}:
        caller = Caller(
            identity=Identity(tenant="tenant", team="team", user="user", tags={"key": "value"}),
            fleet=name.partition(".")[0],
            agent=name.partition(".")[2],
            agent_version="version",
            conversation_id="",
            run_id="",
        )
        for action in ACTIONS:
            resource = "provider:name" if action == "model:call" else "name"
            yield Access(
                id="",
                caller=caller,
                action=action,
                resource=resource,
                attributes={"tier": TIERS[0]} if action == "model:call" else {},
                context={CONVERSATION_FACTS: {"calls": 0, "spent_nanos": 0}},
            )
