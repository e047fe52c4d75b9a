"""Decisions as rows: what is kept of a question, so that it can be asked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Row

from admiralty.core.money import Nanos
from admiralty.core.values import Access, Caller, Decision, Identity
from admiralty.runtime.policy.context import CONVERSATION_FACTS
from admiralty.runtime.policy.engine import principal
from admiralty.runtime.policy.stock import TOLD, resource_type

MAX_TEXT = 1000
"""Characters of a fact that are kept, and items of a set."""

Verdict = Literal["allow", "deny"]

_IDENTITY = ("tenant", "team", "user", "key_id", "admin")
_CALLER = ("fleet", "agent", "agent_version", "conversation_id", "run_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionRecord:
    """A recorded decision."""

    id: str
    at: float
    """Seconds since the epoch."""
    tenant: str
    action: str
    principal: str
    resource: str
    request: Mapping[str, Any]
    """The question: caller, attributes, facts of the conversation."""
    decision: Verdict
    enforced: bool
    reasons: tuple[str, ...]
    errors: tuple[str, ...]
    bundle: str
    conversation_id: str
    run_id: str

    @property
    def access(self) -> Access:
        """The question as it was asked, as far as it was kept. Raises KeyError for what is no question."""
        given = self.request
        caller = given["caller"]
        identity = Identity(**{name: caller[name] for name in _IDENTITY}, tags=caller["tags"])
        # Facts that were not kept stay there, as something that is no value of a policy's.
        facts = {name: {"kept": False} for name in given["present"]} | given["facts"]
        return Access(
            id=given["id"],
            caller=Caller(identity=identity, **{name: caller[name] for name in _CALLER}),
            action=given["action"],
            resource=given["resource"],
            attributes=given["attributes"],
            context=facts,
            price=Nanos(given["price"]),
        )


def question(access: Access) -> Mapping[str, Any]:
    """Return what is kept of a question, as JSON.

    Of the conversation's facts those that a policy can read: true or false, integers, texts and lists of
    texts, if they are not too long. Of others the names are kept, where they are not empty.
    """
    caller, identity = access.caller, access.caller.identity
    facts = {name: value for name, value in access.context.items() if _is_kept(name, value)}
    return {
        "id": access.id,
        "caller": {name: getattr(identity, name) for name in _IDENTITY}
        | {name: getattr(caller, name) for name in _CALLER}
        | {"tags": dict(identity.tags)},
        "action": access.action,
        "resource": access.resource,
        "attributes": {name: str(access.attributes[name]) for name in TOLD if name in access.attributes},
        "price": int(access.price),
        "facts": facts,
        "present": [name for name, value in access.context.items() if name not in facts and value],
    }


def _is_kept(name: str, value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, list | tuple):
        return len(value) <= MAX_TEXT and all(
            isinstance(item, str) and len(item) <= MAX_TEXT for item in value
        )
    return isinstance(value, int) or name == CONVERSATION_FACTS  # bool is an int too


def row_of(record_id: str, at: float, kept: Mapping[str, Any], access: Access, decision: Decision) -> Any:
    """Return a decision as the values of its row."""
    who = principal(access)
    return {
        "id": record_id,
        "at": at,
        "tenant": access.caller.identity.tenant,
        "action": access.action,
        "principal": f'{who["type"]}::"{who["id"]}"'[:200],
        "resource": f'{resource_type(access)}::"{access.resource}"'[:300],
        "request": kept,
        "decision": "allow" if decision.allowed else "deny",
        "enforced": decision.enforced,
        "reasons": list(decision.reasons),
        "errors": list(decision.errors),
        "bundle": decision.bundle,
        "conversation_id": access.caller.conversation_id,
        "run_id": access.caller.run_id,
    }


def record_of(row: Row[Any]) -> DecisionRecord:
    """Return a row as a record."""
    values = dict(row._mapping)
    values["reasons"], values["errors"] = tuple(values["reasons"]), tuple(values["errors"])
    return DecisionRecord(**values)
