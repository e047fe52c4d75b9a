"""The context of a request to Cedar: who it is for, the conversation's facts, the time.

Facts come from tools, as JSON. Those that a schema declares must be as declared, or the request is
denied: ``==`` between values of two types is no error in Cedar, but quietly false.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from admiralty.core.values import Access, Identity
from admiralty.runtime.ledger.scopes import scope
from admiralty.runtime.policy.mentions import Mentions
from admiralty.runtime.policy.stock import reference

CONVERSATION_FACTS = "admiralty:conversation"
"""Key of an Access's context under which ``calls`` and ``spent_nanos`` stand, where they are asked for."""

_MISSING = object()


class UnfitFact(Exception):
    """A fact is not there, or not as it is declared."""


def build_context(
    access: Access, mentions: Mentions, declared: Mapping[str, str], at: float
) -> Mapping[str, Any]:
    """Return those parts of the context that policies read. Raises UnfitFact."""
    identity = access.caller.identity
    context: dict[str, Any] = {}
    if mentions.everything or not mentions.attributes.isdisjoint(("tenant", "team", "user")):
        known = who(identity.tenant, identity.team, identity.user)
        context |= {name: entity for name, entity in known.items() if name in mentions}
    if "admin" in mentions:
        context["admin"] = identity.admin
    if "tags" in mentions:
        context["tags"] = [f"{key}={value}" for key, value in identity.tags.items()]
    if "session" in mentions:
        context["session"] = _session(access.context, mentions, declared)
    if "facts" in mentions:
        context["facts"] = present(access.context)
    for name in ("taint", "approvals"):
        if name in mentions:
            context[name] = _checked(name, access.context.get(name, []), "Set<String>")
    if mentions.conversation:
        told = access.context.get(CONVERSATION_FACTS, {})
        for name in ("calls", "spent_nanos"):
            context[name] = _checked(name, told.get(name, _MISSING), "Long")
    if "hour" in mentions or "weekday" in mentions:
        now = time.gmtime(at)
        context |= {"hour": now.tm_hour, "weekday": now.tm_wday + 1}
    return context


@lru_cache(maxsize=4096)
def who(tenant: str, team: str | None, user: str | None) -> Mapping[str, Any]:
    """Return the entities that an identity stands for, named as in the ledger's scopes."""
    found = {"tenant": reference("Tenant", _name("tenant", tenant))}
    if team:
        found["team"] = reference("Team", _name("team", tenant, team))
    if user:
        found["user"] = reference("User", _name("user", tenant, user))
    return found


def user_name(identity: Identity) -> str:
    """Return the name of the person who asks without an agent: the user, else the key."""
    return _name("user", identity.tenant, identity.user or identity.key_id or "anonymous")


def _name(kind: Any, tenant: str, name: str = "") -> str:
    # Percent-encoded, so that user b/c of tenant a is never user c of tenant a/b.
    return scope(kind, tenant, name).partition(":")[2]


def present(facts: Mapping[str, Any]) -> list[str]:
    """Return the names of the facts that are there and not false, zero or empty."""
    return [name for name, value in facts.items() if value and name != CONVERSATION_FACTS]


def _session(facts: Mapping[str, Any], mentions: Mentions, declared: Mapping[str, str]) -> Mapping[str, Any]:
    names = declared if mentions.everything else mentions.facts
    return {
        name: _checked(f"session.{name}", facts[name], declared[name])
        for name in names
        if name in declared and facts.get(name) is not None
    }


def _checked(name: str, value: Any, kind: str) -> Any:
    if value is _MISSING:
        raise UnfitFact(f"context.{name} is not known here")
    fits = {
        "Bool": isinstance(value, bool),
        "Long": isinstance(value, int) and not isinstance(value, bool),
        "String": isinstance(value, str),
        "Set<String>": isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
    }[kind]
    if not fits:
        raise UnfitFact(f"context.{name} is a {type(value).__name__}, but declared as {kind}")
    return list(value) if isinstance(value, tuple) else value
