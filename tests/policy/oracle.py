"""A second opinion: Cedar's semantics in plain Python, as far as our tests' policies need them.

Shares no code with what it judges: it reads policies in Cedar's JSON form, makes entities and the whole
context by itself, and looks at every policy. Written after the language's reference, not after our engine.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from admiralty.core.values import Access

TIERS = ["none", "small", "mid", "frontier"]


class Failure(Exception):
    """A policy that cannot be evaluated."""


class Ref(NamedTuple):
    """An entity, by its name."""

    type: str
    id: str


@dataclass
class Thing:
    attrs: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    parents: set[Ref] = field(default_factory=set)


@dataclass
class Verdict:
    allowed: bool
    reasons: set[str]
    failed: set[str]


World = dict[Ref, Thing]


def listed(items: Iterable[Mapping[str, Any]]) -> World:
    """The entities of an entities.json."""
    return {
        Ref(item["uid"]["type"], item["uid"]["id"]): Thing(
            dict(item.get("attrs", {})),
            dict(item.get("tags", {})),
            {Ref(parent["type"], parent["id"]) for parent in item.get("parents", [])},
        )
        for item in items
    }


def world_of(access: Access, tier: str, tools: Iterable[str], known: World) -> World:
    """All entities of a question."""
    caller = access.caller
    fleet = Ref("Fleet", caller.fleet)
    agent = Thing(
        {
            "name": caller.agent,
            "fleet": caller.fleet,
            "version": caller.agent_version,
            "tier": tier,
            "rank": TIERS.index(tier),
            "tools": frozenset(Ref("Tool", tool) for tool in tools),
        },
        parents={fleet},
    )
    world = dict(known) | {Ref("Agent", f"{caller.fleet}.{caller.agent}"): agent}
    if access.action == "model:call":
        provider, _, name = access.resource.partition(":")
        level = access.attributes["tier"]
        attrs = {"provider": provider, "name": name, "tier": level, "rank": TIERS.index(level)}
        world[Ref("Model", access.resource)] = Thing(attrs)
    else:
        attrs = {"effect": access.attributes["effect"], "price_nanos": int(access.price)}
        world[Ref("Tool", access.resource)] = Thing(attrs, parents={fleet})
    return world


def context_of(access: Access, at: float, conversation: Mapping[str, int]) -> dict[str, Any]:
    """The whole context of a question, whoever reads it."""
    who, moment = access.caller.identity, time.gmtime(at)
    facts = {name: value for name, value in access.context.items() if not name.startswith("admiralty:")}
    context: dict[str, Any] = {
        "tenant": Ref("Tenant", who.tenant),
        "admin": who.admin,
        "tags": frozenset(f"{key}={value}" for key, value in who.tags.items()),
        "session": {
            name: frozenset(value) if isinstance(value, list) else value for name, value in facts.items()
        },
        "facts": frozenset(name for name, value in facts.items() if value),
        "taint": frozenset(facts.get("taint", [])),
        "approvals": frozenset(facts.get("approvals", [])),
        "hour": moment.tm_hour,
        "weekday": moment.tm_wday + 1,
        **conversation,
    }
    if who.team:
        context["team"] = Ref("Team", f"{who.tenant}/{who.team}")
    if who.user:
        context["user"] = Ref("User", f"{who.tenant}/{who.user}")
    return context


def judge(
    policies: Mapping[str, Mapping[str, Any]],
    *,
    principal: Ref,
    action: Ref,
    resource: Ref,
    context: Mapping[str, Any],
    world: World,
) -> Verdict:
    """Look at every policy; any that fails makes it a no."""
    scope = {"principal": principal, "action": action, "resource": resource, "context": context}
    permits: set[str] = set()
    forbids: set[str] = set()
    failed: set[str] = set()
    for name, policy in policies.items():
        try:
            if _applies(policy, scope, world):
                (permits if policy["effect"] == "permit" else forbids).add(name)
        except Failure:
            failed.add(name)
    reasons = forbids or permits
    return Verdict(bool(permits) and not forbids and not failed, reasons, failed)


def _applies(policy: Mapping[str, Any], scope: Mapping[str, Any], world: World) -> bool:
    for name in ("principal", "action", "resource"):
        if not _in_head(policy[name], scope[name], world):
            return False
    for condition in policy["conditions"]:
        value = _boolean(_eval(condition["body"], scope, world))
        if value != (condition["kind"] == "when"):
            return False
    return True


def _in_head(head: Mapping[str, Any], who: Ref, world: World) -> bool:
    of_type = "entity_type" not in head or who.type == head["entity_type"]
    if "entities" in head:
        return any(_below(who, Ref(item["type"], item["id"]), world) for item in head["entities"])
    inner = head.get("in", head)
    if "entity" not in inner:
        return of_type
    other = Ref(inner["entity"]["type"], inner["entity"]["id"])
    same = who == other if head["op"] == "==" else _below(who, other, world)
    return of_type and same


def _below(who: Ref, other: Ref, world: World) -> bool:
    if who == other:
        return True
    return any(_below(parent, other, world) for parent in world.get(who, Thing()).parents)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Failure(f"{value!r} is no Boolean")
    return value


def _long(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Failure(f"{value!r} is no Long")
    if not -(2**63) <= value < 2**63:
        raise Failure("overflow")
    return value


def _same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)


_ARITHMETIC: Mapping[str, Callable[[int, int], Any]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "+": lambda a, b: _long(a + b),
    "-": lambda a, b: _long(a - b),
    "*": lambda a, b: _long(a * b),
}


def _literal(value: Any) -> Any:
    if isinstance(value, dict):
        return Ref(value["__entity"]["type"], value["__entity"]["id"])
    return value


def _eval(node: Mapping[str, Any], scope: Mapping[str, Any], world: World) -> Any:  # noqa: C901
    ((op, body),) = node.items()
    if op == "Value":
        return _literal(body)
    if op == "Var":
        return scope[body]
    if op == "Set":
        return frozenset(_eval(item, scope, world) for item in body)
    if op == "!":
        return not _boolean(_eval(body["arg"], scope, world))
    if op == "if-then-else":
        chosen = "then" if _boolean(_eval(body["if"], scope, world)) else "else"
        return _eval(body[chosen], scope, world)
    left = _eval(body["left"], scope, world)
    if op == "&&":
        return _boolean(left) and _boolean(_eval(body["right"], scope, world))
    if op == "||":
        return _boolean(left) or _boolean(_eval(body["right"], scope, world))
    if op == "is":
        return left.type == body["entity_type"]
    if op == "like":
        pattern = "".join("*" if part == "Wildcard" else part["Literal"] for part in body["pattern"])
        return fnmatch.fnmatchcase(left, pattern)
    if op in (".", "has"):
        if isinstance(left, Ref):
            if op == "." and left not in world:
                raise Failure(f"no entity {left}")
            left = world.get(left, Thing()).attrs
        if op == "has":
            return body["attr"] in left
        if body["attr"] not in left:
            raise Failure(f"no attribute {body['attr']}")
        return left[body["attr"]]
    right = _eval(body["right"], scope, world)
    if op in ("==", "!="):
        return _same(left, right) == (op == "==")
    if op in _ARITHMETIC:
        return _ARITHMETIC[op](_long(left), _long(right))
    if op == "in":
        return any(_below(left, item, world) for item in (right if isinstance(right, frozenset) else [right]))
    if op in ("contains", "containsAll", "containsAny"):
        if op == "contains":
            return right in left
        return right <= left if op == "containsAll" else bool(right & left)
    tags = world.get(left, Thing()).tags
    if op == "hasTag":
        return right in tags
    if op == "getTag":
        if right not in tags:
            raise Failure(f"no tag {right}")
        return tags[right]
    raise AssertionError(f"the oracle does not know {op}")
