"""A bundle: the files that make up a policy, laid over each other, checked, hashed and parsed once.

Whatever is wrong in it is found here, when it is loaded, with file, line and remedy.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import cedarpy

from admiralty.core.errors import ConfigurationError
from admiralty.core.values import Action
from admiralty.runtime.policy.mentions import Mentions, mentions_of
from admiralty.runtime.policy.source import Statement, line_of, session_facts, split
from admiralty.runtime.policy.stock import parse_entities

Layer = Literal["default", "fleet", "operator"]

DEFAULT = Path(__file__).with_name("default")
DIGITS = 12
ACTIONS: tuple[Action, ...] = get_args(Action)

APPROVED_ACTION: Action = "tool:call"
"""What a person can be asked about: nothing else waits."""

PERSON = "person"
"""In a context's ``approvals``: somebody has approved this very call."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_GUIDE = "See docs/policy.md."
_REMEDIES = (
    ("optional attribute", "Ask whether it is there first: `context has team && context.team == ...`."),
    ("unrecognized action", f"Actions are {', '.join(ACTIONS)}."),
    ("unrecognized entity type", "Types are declared in schema.cedarschema."),
    ("in context", "Declare facts of the session in session.cedarschema; the rest is in schema.cedarschema."),
    ("not found", "Attributes are declared in schema.cedarschema."),
    ("type", "Compare values of one type only."),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file of a bundle."""

    name: str
    layer: Layer
    text: str
    path: Path
    replaces: Layer | None = None
    """The layer whose file of the same name it stands for."""

    @property
    def digest(self) -> str:
        """SHA-256 of its content, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A policy of a bundle."""

    id: str
    effect: Literal["permit", "forbid"]
    file: str
    line: int
    message: str = ""
    """For whoever is refused: its ``@message``."""
    approval: str = ""
    """Why a person is asked whether it may be done all the same: its ``@approval``."""

    @property
    def reason(self) -> str:
        """How decisions name it: ``id (file:line)``, and its message."""
        where = f"{self.id} ({self.file}:{self.line})"
        return f"{where}: {self.message}" if self.message else where


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A policy that is ready to decide. Made by :func:`load_bundle`."""

    hash: str
    """12 hexadecimal digits of the SHA-256 over its files' names and contents, by name."""
    files: Sequence[Source]
    rules: Mapping[str, Rule]
    mentions: Mapping[str, Mentions]
    """What the policies on each action read of the context."""
    facts: Mapping[str, str]
    """Facts of the session that the schema declares, with their types."""
    schema: cedarpy.Schema = field(repr=False, compare=False)
    policies: cedarpy.PolicySet = field(repr=False, compare=False)
    entities: cedarpy.Entities = field(repr=False, compare=False)


def load_bundle(*, fleet: Path | None = None, operator: Path | None = None) -> Bundle:
    """Load the policy of a fleet: ours, then the folder ``fleet``, then ``operator`` on top.

    A file replaces the file of the same name below it. ``fleet`` may be missing; ``operator`` must be there.

    Raises ConfigurationError, naming file, line and remedy.
    """
    files = _overlay(fleet, operator)
    schema_files = [file for file in files if file.name.endswith(".cedarschema")]
    schema = _schema(schema_files)
    facts = _facts(schema_files)
    statements = [
        statement
        for file in files
        if file.name.endswith(".cedar")
        for statement in split(file.name, file.text)
    ]
    rules, forms = _rules(statements, schema)
    policies = cedarpy.PolicySet.from_json_str(
        json.dumps({"templates": {}, "staticPolicies": forms, "templateLinks": []})
    )
    entities = parse_entities({file.name: file.text for file in files if file.name.endswith(".json")}, schema)
    return Bundle(
        hash=_hash(files),
        files=files,
        rules=rules,
        mentions={action: mentions_of(_on(action, forms.values())) for action in ACTIONS},
        facts=facts,
        schema=schema,
        policies=policies,
        entities=entities,
    )


def _hash(files: Sequence[Source]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = file.text.encode()
        digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:DIGITS]


# -- files ----------------------------------------------------------------------------------------


def _overlay(fleet: Path | None, operator: Path | None) -> Sequence[Source]:
    found = {source.name: source for source in _read(DEFAULT, "default")}
    if fleet is not None and fleet.is_dir():
        _lay(found, _read(fleet, "fleet"))
    if operator is not None:
        folder = operator.expanduser()
        if not folder.is_dir():
            raise ConfigurationError(
                f"policies = {str(operator)!r}: no such folder. Name a folder with *.cedar files, or unset "
                "ADMIRALTY_POLICIES."
            )
        _lay(found, _read(folder, "operator"))
    return [found[name] for name in sorted(found)]


def _lay(found: dict[str, Source], over: Sequence[Source]) -> None:
    for source in over:
        below = found.get(source.name)
        replaces = below.layer if below else None
        found[source.name] = Source(
            name=source.name, layer=source.layer, text=source.text, path=source.path, replaces=replaces
        )


def _is_policy(path: Path) -> bool:
    return path.suffix in (".cedar", ".cedarschema") or path.name.endswith("entities.json")


def _read(folder: Path, layer: Layer) -> Sequence[Source]:
    found = []
    try:
        paths = sorted(folder.iterdir())
        for path in paths:
            if path.is_dir() and any(_is_policy(inner) for inner in path.iterdir()):
                raise ConfigurationError(
                    f"policies: {path} holds policy files, but folders are not searched for further folders. "
                    f"Move them to {folder}, or the folder elsewhere."
                )
            if path.is_file() and _is_policy(path):
                text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
                found.append(Source(name=path.name, layer=layer, text=text, path=path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"policies: {folder} cannot be read: {error}. Its files must be readable, and UTF-8."
        ) from error
    if not found:
        raise ConfigurationError(
            f"policies: {folder} holds no *.cedar, *.cedarschema or entities.json. "
            "Name the folder they lie in."
        )
    return found


# -- schema ---------------------------------------------------------------------------------------


def _schema(files: Sequence[Source]) -> cedarpy.Schema:
    try:
        return cedarpy.Schema.from_str("\n".join(file.text for file in files))
    except ValueError as error:
        message = str(error)
        own = [file for file in files if file.layer != "default"]
        for quoted in (
            message,
            " ".join(f"`{name}`" for name in re.findall(r"\w+", message.partition("resolve type")[2])),
        ):
            for file in own:
                if (line := line_of(quoted, file.text)) is not None:
                    _fail(file.name, line, message, f"Mend the schema. {_GUIDE}")
        names = ", ".join(file.name for file in own) or "schema.cedarschema"
        _fail(names, 1, message, f"Mend the schema. {_GUIDE}")


def _facts(files: Sequence[Source]) -> Mapping[str, str]:
    for file in files:
        facts = session_facts(file.text)
        if isinstance(facts, str):
            line = line_of(f"`{facts}`", file.text) or 1
            problem = f"the session's fact {facts!r} cannot be checked when it is read"
            _fail(file.name, line, problem, "Declare it as Bool, Long, String or Set<String>.")
        if facts:
            return facts
    return {}


# -- policies -------------------------------------------------------------------------------------


def _rules(
    statements: Sequence[Statement], schema: cedarpy.Schema
) -> tuple[Mapping[str, Rule], dict[str, Any]]:
    """Check each policy by itself, so that what is wrong has a place; give each the id it is told by."""
    rules: dict[str, Rule] = {}
    forms: dict[str, Any] = {}
    for statement in statements:
        form = _parse(statement)
        result = cedarpy.validate_policies(statement.text, schema)
        if not result.validation_passed:
            _refuse(statement, [error.error for error in result.errors])
        rule = _rule(statement, form)
        if rule.id in rules:
            other = rules[rule.id]
            problem = f'@id("{rule.id}") is taken by the policy at {other.file}:{other.line}'
            _fail(statement.file, statement.line, problem, "Give it another.")
        rules[rule.id] = rule
        forms[rule.id] = form
    if not any(rule.effect == "permit" for rule in rules.values()):
        raise ConfigurationError(
            "policies: there is no permit in them: everything would be denied. Write one, or leave out "
            "the default.cedar that replaces ours."
        )
    return rules, forms


def _parse(statement: Statement) -> Mapping[str, Any]:
    if not statement.ended:
        _fail(
            statement.file,
            statement.line,
            "the policy that begins here has no end",
            "Put a semicolon behind.",
        )
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(statement.text))
    except ValueError as error:
        line = line_of(str(error), statement.text, statement.line) or statement.line
        _fail(statement.file, line, str(error), f"Mend the syntax of this policy. {_GUIDE}")
    if parsed["templates"]:
        problem = "a template: nothing would fill its slots"
        _fail(statement.file, statement.line, problem, "Name an entity, or a group from entities.json.")
    if len(parsed["staticPolicies"]) != 1:
        _fail(statement.file, statement.line, "no policy", "Begin it with permit or forbid.")
    form: Mapping[str, Any] = next(iter(parsed["staticPolicies"].values()))
    return form


def _rule(statement: Statement, form: Mapping[str, Any]) -> Rule:
    annotations = form.get("annotations", {})
    name = annotations.get("id")
    if name is None:
        name = f"{statement.file}.{statement.line}"
    elif not _ID.fullmatch(name or ""):
        _fail(
            statement.file, statement.line, f"@id({name!r}) is no id", "Use letters, digits, _, . and - only."
        )
    return Rule(
        id=name,
        effect=form["effect"],
        file=statement.file,
        line=statement.line,
        message=annotations.get("message") or "",
        approval=_approval(statement, form),
    )


def _approval(statement: Statement, form: Mapping[str, Any]) -> str:
    """Return why a person is asked; refuse where no answer of theirs could change anything."""
    annotations = form.get("annotations", {})
    if "approval" not in annotations:
        return ""
    text = (annotations["approval"] or "").strip()
    problem = ""
    if not text:
        problem, remedy = "@approval without a text", "Say why a person is asked: they read it."
    elif form["effect"] != "forbid":
        problem, remedy = "@approval on a permit", "Write a forbid that an approval lifts."
    elif not _on(APPROVED_ACTION, [form]):
        problem = "@approval on what is no tool call"
        remedy = f"Persons are asked about {APPROVED_ACTION} only: leave it out."
    elif "approvals" not in mentions_of([form]) or json.dumps(PERSON) not in json.dumps(form["conditions"]):
        problem = "@approval on a forbid that no approval lifts"
        remedy = f'Add `unless {{ context.approvals.contains("{PERSON}") }}`.'
    if problem:
        _fail(statement.file, statement.line, problem, f"{remedy} {_GUIDE}")
    return text


def _refuse(statement: Statement, errors: Sequence[str]) -> NoReturn:
    problems = list(dict.fromkeys(error.replace("for policy `policy0`, ", "") for error in errors))
    remedy = next((text for sign, text in _REMEDIES if sign in problems[0]), "")
    line = line_of(problems[0], statement.text, statement.line) or statement.line
    _fail(statement.file, line, "; ".join(problems), f"{remedy} {_GUIDE}".strip())


def _fail(file: str, line: int, problem: str, remedy: str) -> NoReturn:
    raise ConfigurationError(f"policies: {file}:{line}: {problem.rstrip('.')}. {remedy}")


def _on(action: str, forms: Any) -> list[Mapping[str, Any]]:
    """Return the policies that can apply to an action. Groups of actions count as all of them."""
    return [
        form for form in forms if form["action"]["op"] != "==" or form["action"]["entity"]["id"] == action
    ]
