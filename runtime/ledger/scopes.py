"""Whom a budget limits, written as text: ``tenant:acme``, ``user:acme/ann``, ``conversation:acme/*``.

The tenant stands in every scope, so that a name which one tenant chose never meets another's.
``*`` for the tenant means all tenants together; ``*`` for the name means each by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, unquote

from admiralty.core.errors import InvalidRequest
from admiralty.core.values import Caller

ScopeKind = Literal["tenant", "team", "user", "agent", "conversation", "tag"]

KINDS: tuple[ScopeKind, ...] = ("tenant", "team", "user", "agent", "conversation", "tag")

EACH = "*"

MAX_NAME = 200
"""Characters of a name, encoded, above which it is shortened to a digest."""

Labels = tuple[tuple[str, str], ...]
Scopes = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Scope:
    """A scope, taken apart. Names are percent-encoded, so that ``*`` is never somebody's name.

    ``name`` is empty for tenants, ``fleet.agent`` for agents, ``key=value`` for tags.
    """

    kind: ScopeKind
    tenant: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.tenant}" + (f"/{self.name}" if self.name else "")

    @property
    def is_each(self) -> bool:
        """Whether it applies to each of many by itself."""
        return self.name == EACH or (self.kind == "tag" and self.name.endswith("=" + EACH))

    @property
    def owner(self) -> str | None:
        """The tenant it belongs to; ``None`` for one over all tenants."""
        return None if self.tenant == EACH else unquote(self.tenant)


def parse_scope(text: str) -> Scope:
    """Return the scope that ``text`` names. Raises InvalidRequest, saying how scopes are written."""
    kind, colon, rest = text.partition(":")
    tenant, slash, name = rest.partition("/")
    problem = None
    if not colon or kind not in KINDS:
        problem = f"begin with one of {', '.join(KINDS)} and a colon"
    elif not tenant:
        problem = "name the tenant after the colon, or * for all tenants"
    elif (kind == "tenant") == bool(slash):
        problem = "write tenant:NAME" if kind == "tenant" else f"write {kind}:TENANT/NAME"
    elif kind != "tenant" and not name:
        problem = f"write {kind}:TENANT/NAME, with * as NAME for each {kind}"
    elif kind == "agent" and name != EACH and "." not in unquote(name):
        problem = "write agents as agent:TENANT/FLEET.AGENT"
    elif kind == "tag" and "=" not in unquote(name):
        problem = "write tags as tag:TENANT/KEY=VALUE, with * as VALUE for each value"
    if problem:
        raise InvalidRequest(f"scope = {text!r}: {problem}.", param="scope")
    return Scope(kind, _encoded(tenant), _encoded(name))  # type: ignore[arg-type]  # it is one of KINDS


def scope(kind: ScopeKind, tenant: str, name: str = "") -> str:
    """Return the scope of a tenant and a name as they are, whatever characters they hold."""
    return str(Scope(kind, _plain(tenant), _plain(name)))


@lru_cache(maxsize=4096)
def _scopes(identity: tuple[str, str | None, str | None, Labels], agent: str, conversation: str) -> Scopes:
    tenant, team, user, tags = identity
    names: list[tuple[ScopeKind, str, str]] = [
        ("agent", _plain(agent), EACH),
        ("conversation", _plain(conversation), EACH),
    ]
    if team:
        names.append(("team", _plain(team), EACH))
    if user:
        names.append(("user", _plain(user), EACH))
    for key, value in tags:
        plain = _plain(key).replace("=", "%3D")
        names.append(("tag", f"{plain}={_plain(value)}", f"{plain}={EACH}"))
    mine = _plain(tenant)
    found = {str(Scope("tenant", mine)): "", str(Scope("tenant", EACH)): ""}
    for kind, name, each in names:
        own = str(Scope(kind, mine, name))
        found |= {own: "", str(Scope(kind, EACH, name)): ""}
        found |= {str(Scope(kind, mine, each)): own, str(Scope(kind, EACH, each)): own}
    return found


def scopes_of(caller: Caller) -> Mapping[str, str]:
    """Return every scope that a budget on this caller's spending can have, with its subject.

    The subject is empty where the scope names the caller itself, and the caller's own scope where the
    budget applies to each of many.
    """
    who = caller.identity
    identity = (who.tenant, who.team, who.user, tuple(sorted(who.tags.items())))
    return _scopes(identity, f"{caller.fleet}.{caller.agent}", caller.conversation_id)


def _plain(name: str) -> str:
    plain = quote(name, safe="=.-_@+ :")
    if len(plain) <= MAX_NAME:
        return plain
    # An index has room for so much only; what is cut off stands in the digest.
    return f"{plain[:60]}~{hashlib.sha256(plain.encode()).hexdigest()[:32]}"


def _encoded(name: str) -> str:
    """Return a name as a person wrote it, encoded the one way that we encode it."""
    key, equals, value = name.partition("=")
    if equals and value == EACH:
        return f"{_plain(unquote(key))}={EACH}"
    return name if name == EACH else _plain(unquote(name))
