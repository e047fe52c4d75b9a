"""Entities in Cedar's JSON: those that a bundle lists, and those that we make of agents and resources."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cedarpy

from admiralty.core.errors import ConfigurationError
from admiralty.core.values import TIERS, Access, Tier

OURS = ("Agent", "Model", "Tool", "Corpus", "Release", "Action")
"""Types whose entities the runtime makes: a file must not list them."""

TOLD = ("tier", "effect", "agent", "version", "stage")
"""Attributes of an Access that policies are told as attributes of its resource."""

Entity = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentFacts:
    """What policies are told of an agent, from its definition."""

    tier: Tier = "none"
    tools: Sequence[str] = ()
    defined: bool = True


UNKNOWN = AgentFacts(defined=False)
"""An agent that the fleet does not define: it has no tier and no tools."""


def uid(kind: str, name: str) -> dict[str, str]:
    """Return how Cedar's JSON names an entity."""
    return {"type": kind, "id": name}


def reference(kind: str, name: str) -> dict[str, Any]:
    """Return an entity as the value of an attribute."""
    return {"__entity": uid(kind, name)}


def rank(tier: str) -> int:
    """Return a tier as a number. Raises ValueError for what is no tier."""
    return TIERS.index(tier)


def agent_entity(access: Access, facts: AgentFacts) -> Entity:
    """Return the agent that makes a call."""
    caller = access.caller
    return {
        "uid": uid("Agent", f"{caller.fleet}.{caller.agent}"),
        "attrs": {
            "name": caller.agent,
            "fleet": caller.fleet,
            "version": caller.agent_version,
            "tier": facts.tier,
            "rank": rank(facts.tier),
            "defined": facts.defined,
            "tools": [reference("Tool", name) for name in sorted(facts.tools)],
        },
        "parents": [uid("Fleet", caller.fleet)],
    }


def resource_type(access: Access) -> str:
    """Return the type of what an action acts on."""
    return {
        "model:call": "Model",
        "tool:call": "Tool",
        "memory:read": "Corpus",
        "memory:write": "Corpus",
        "release:promote": "Release",
    }[access.action]


def resource_entity(access: Access) -> Entity:
    """Return what an action acts on. A tool whose effect is not told counts as one that writes."""
    kind, given = resource_type(access), access.attributes
    attributes: dict[str, Any] = {}
    if kind == "Model":
        provider, _, name = access.resource.partition(":")
        tier = str(given["tier"])
        attributes = {"provider": provider, "name": name, "tier": tier, "rank": rank(tier)}
    elif kind == "Tool":
        attributes = {"effect": str(given.get("effect", "write")), "price_nanos": int(access.price)}
    elif kind == "Release":
        attributes = {name: str(given.get(name, "")) for name in ("agent", "version", "stage")}
    parents = [] if kind == "Model" else [uid("Fleet", access.caller.fleet)]
    return {"uid": uid(kind, access.resource), "attrs": attributes, "parents": parents}


# -- entities.json --------------------------------------------------------------------------------


def parse_entities(files: Mapping[str, str], schema: cedarpy.Schema) -> cedarpy.Entities:
    """Return the entities that files list. Raises ConfigurationError with file, line and remedy."""
    found: list[Entity] = []
    places: dict[tuple[str, str], str] = {}
    for name, text in files.items():
        for entity in _listed(name, text):
            key = _key(entity)
            place = f"{name}:{_line(text, key)}"
            if key is None:
                raise ConfigurationError(
                    f"policies: {place}: {json.dumps(entity)[:80]} is no entity. "
                    'Write {"uid": {"type": "Tenant", "id": "acme"}, "attrs": {}, "parents": []}.'
                )
            if key[0] in OURS:
                raise ConfigurationError(
                    f'policies: {place}: {key[0]}::"{key[1]}" comes from the fleet itself. Remove it here.'
                )
            if key in places:
                raise ConfigurationError(
                    f'policies: {place}: {key[0]}::"{key[1]}" is listed at {places[key]} already. Remove one.'
                )
            places[key] = place
            _check(entity, schema, place)
            found.append(entity)
    try:
        return cedarpy.Entities.from_json_str(json.dumps(found), schema)
    except ValueError as error:
        raise ConfigurationError(
            f"policies: {', '.join(files) or 'entities'}: {error}. No entity may be below itself."
        ) from error


def _listed(name: str, text: str) -> Sequence[Any]:
    try:
        listed = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"policies: {name}:{error.lineno}: {error.msg}. Mend the JSON.") from None
    if not isinstance(listed, list):
        raise ConfigurationError(f"policies: {name}:1: no list. Write a JSON list of entities.")
    return [{"attrs": {}, "parents": []} | item if isinstance(item, dict) else item for item in listed]


def _key(entity: Any) -> tuple[str, str] | None:
    given = entity.get("uid") if isinstance(entity, dict) else None
    inner = given.get("__entity", given) if isinstance(given, dict) else None
    if not isinstance(inner, dict):
        return None
    kind, name = inner.get("type"), inner.get("id")
    return (kind, name) if isinstance(kind, str) and isinstance(name, str) else None


def _line(text: str, key: tuple[str, str] | None) -> int:
    position = text.find(json.dumps(key[1], ensure_ascii=False)) if key else -1
    return text.count("\n", 0, max(position, 0)) + 1


def _check(entity: Entity, schema: cedarpy.Schema, place: str) -> None:
    problem = _misfit(entity, schema)
    if problem is None:
        return
    attributes = entity["attrs"]
    for name in attributes:  # Cedar does not say which attribute it is
        others = {key: value for key, value in attributes.items() if key != name}
        if _misfit({**entity, "attrs": others}, schema) is None:
            problem = f"its attribute {name!r} is not as declared"
            break
    kind, name = _key(entity) or ("", "")
    raise ConfigurationError(
        f'policies: {place}: {kind}::"{name}": {problem}. Make it fit schema.cedarschema; '
        'texts of your own go to "tags".'
    )


def _misfit(entity: Entity, schema: cedarpy.Schema) -> str | None:
    try:
        cedarpy.Entities.from_json_str(json.dumps([entity]), schema)
    except ValueError as error:
        return str(error)
    return None
