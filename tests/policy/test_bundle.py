"""What a bundle is made of, and what is wrong with one: told when it is loaded, with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from admiralty.core.errors import ConfigurationError
from admiralty.runtime.policy import load_bundle

from .conftest import AGENTS, SCHEMA, PolicyOf, asked, caller, entities, session, write_files

PERMIT = "permit (principal, action, resource);"
LIFTED = 'forbid (principal, action, resource) unless { context.approvals.contains("person") };'


def acme(**more: object) -> Mapping[str, object]:
    return {"uid": {"type": "Tenant", "id": "acme"}, **more}


WRONG: dict[str, tuple[Mapping[str, str], str]] = {
    "syntax": (
        {"a.cedar": f"{PERMIT}\n\n// so far\npermit (principal, action, resource)\nwhen {{ 1 + }};"},
        r"a\.cedar:5: unexpected token `}`\. Mend the syntax",
    ),
    "no end": ({"a.cedar": "\n\npermit (principal, action, resource)"}, r"a\.cedar:3: .* Put a semicolon"),
    "no policy": ({"a.cedar": ";"}, r"a\.cedar:1: unexpected token `;`"),
    "unknown attribute": (
        {"a.cedar": "permit (principal, action, resource)\nwhen {\n  context.foo };"},
        r"a\.cedar:3: attribute `foo` in context .* Declare facts of the session in session\.cedarschema",
    ),
    "unknown action": (
        {"a.cedar": 'permit (principal,\n  action == Action::"model:cal", resource);'},
        r"a\.cedar:2: unrecognized action .* Actions are model:call, tool:call",
    ),
    "unknown type": (
        {"a.cedar": "permit (principal is Robot, action, resource);"},
        r"a\.cedar:1: unrecognized entity type `Robot`.* schema\.cedarschema",
    ),
    "unguarded fact": (
        {
            "a.cedar": '@id("x")\nforbid (principal, action, resource)\nwhen { context.session.who == "" };',
            "session.cedarschema": session("who?: String"),
        },
        r"a\.cedar:3: unable to guarantee safety .* Ask whether it is there first",
    ),
    "two types compared": (
        {"a.cedar": PERMIT + '\nforbid (principal, action, resource) when { context.hour < "x" };'},
        r"a\.cedar:2: .*type",
    ),
    "template": (
        {"a.cedar": "permit (principal == ?principal, action, resource);"},
        r"a\.cedar:1: a template.* Name an entity",
    ),
    "the same id twice": (
        {"a.cedar": f'@id("x") {PERMIT}', "b.cedar": f'\n@id("x") {PERMIT}'},
        r'b\.cedar:2: @id\("x"\) is taken by the policy at a\.cedar:1\. Give it another',
    ),
    "an odd id": ({"a.cedar": f'@id("a b") {PERMIT}'}, r"a\.cedar:1: @id\('a b'\) is no id\. Use letters"),
    "an approval that is no forbid's": (
        {"a.cedar": f'\n@approval("why") {PERMIT}'},
        r"a\.cedar:2: @approval on a permit\. Write a forbid",
    ),
    "an approval without a text": (
        {"a.cedar": f'@approval("") {LIFTED}'},
        r"a\.cedar:1: @approval without a text\. Say why",
    ),
    "an approval without a value": (
        {"a.cedar": f"@approval {LIFTED}"},
        r"a\.cedar:1: @approval without a text",
    ),
    "an approval that lifts nothing": (
        {"a.cedar": '@approval("why")\nforbid (principal, action, resource) when { context.hour > 20 };'},
        r"a\.cedar:1: @approval on a forbid that no approval lifts\. Add `unless .*person",
    ),
    "an approval of somebody else": (
        {"a.cedar": '@approval("why") ' + LIFTED.replace("person", "manager")},
        r"a\.cedar:1: @approval on a forbid that no approval lifts",
    ),
    "an approval of a model call": (
        {"a.cedar": '@approval("why") ' + LIFTED.replace("action,", 'action == Action::"model:call",')},
        r"a\.cedar:1: @approval on what is no tool call\. Persons are asked about tool:call only",
    ),
    "nothing permitted": ({"default.cedar": "// nothing"}, r"no permit .* default\.cedar"),
    "schema: unknown type": (
        {"more.cedarschema": "entity Ship;\nentity Fleet2 in [Sea];"},
        r"more\.cedarschema:2: failed to resolve type.*Sea.* Mend the schema",
    ),
    "schema: syntax": (
        {"more.cedarschema": "\nentity Ship = { name Strange };"},
        r"more\.cedarschema:2: .*unexpected token `Strange`",
    ),
    "schema: what we fill in is gone": (
        {"schema.cedarschema": SCHEMA.replace("  weekday: Long,\n", ""), "default.cedar": PERMIT},
        r"schema\.cedarschema does not fit .*weekday.* Keep the types",
    ),
    "schema: more than we fill in": (
        {"schema.cedarschema": SCHEMA.replace("admin: Bool,", "admin: Bool, moon: String,")},
        r"schema\.cedarschema does not fit .*moon.* and add to them",
    ),
    "a fact that must be there": (
        {"session.cedarschema": session("who: String")},
        r"schema\.cedarschema does not fit .*who.* must be optional",
    ),
    "a fact of a type that is not checked": (
        {"session.cedarschema": "type Session = {\n  who?: String,\n  at?: datetime,\n};"},
        r"session\.cedarschema:3: .*at\?: datetime.* Declare it as Bool, Long, String or Set<String>",
    ),
    "entities: no JSON": ({"entities.json": '[\n {"uid": }\n]'}, r"entities\.json:2: .* Mend the JSON"),
    "entities: no list": ({"entities.json": "{}"}, r"entities\.json:1: no list"),
    "entities: no uid": ({"entities.json": entities({"id": "acme"})}, r"entities\.json:1: .*is no entity"),
    "entities: undeclared attribute": (
        {
            "entities.json": entities(
                acme(), {"uid": {"type": "Team", "id": "acme/x"}, "attrs": {"plan": "pro"}}
            )
        },
        r'entities\.json:1: Team::"acme/x": its attribute \'plan\' is not as declared.*schema\.cedarschema',
    ),
    "entities: twice": (
        {"entities.json": entities(acme()), "more.entities.json": "\n" + entities(acme())},
        r'more\.entities\.json:2: Tenant::"acme" is listed at entities\.json:1 already',
    ),
    "entities: what the fleet defines": (
        {"entities.json": entities({"uid": {"type": "Agent", "id": "desk.clerk"}})},
        r'entities\.json:1: Agent::"desk\.clerk" comes from the fleet itself',
    ),
    "entities: below themselves": (
        {
            "entities.json": entities(
                {"uid": {"type": "Team", "id": "a"}, "parents": [{"type": "Team", "id": "b"}]},
                {"uid": {"type": "Team", "id": "b"}, "parents": [{"type": "Team", "id": "a"}]},
            )
        },
        r"entities\.json: .* No entity may be below itself",
    ),
    "a folder in the folder": ({"more/a.cedar": PERMIT}, r"more holds policy files.* Move them"),
    "nothing": ({"README.md": "Policies"}, r"holds no \*\.cedar"),
}


@pytest.mark.requirement("policy.load_errors")
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_bundle_is_told_with_its_place_and_remedy(case: str, policy_of: PolicyOf) -> None:
    files, told = WRONG[case]
    with pytest.raises(ConfigurationError) as error:
        policy_of(files)
    assert re.search(told, error.value.message, re.DOTALL), error.value.message
    assert "policy0" not in error.value.message, "Cedar's own numbers say nothing to anyone"


@pytest.mark.requirement("policy.load_errors")
def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ADMIRALTY_POLICIES"):
        load_bundle(operator=tmp_path / "nowhere")


@pytest.mark.requirement("policy.hash")
def test_the_hash_follows_names_and_contents_and_nothing_else(tmp_path: Path) -> None:
    def hashed(name: str, files: Mapping[str, str]) -> str:
        return load_bundle(operator=write_files(tmp_path / name, files)).hash

    first = hashed("one", {"a.cedar": PERMIT, "b.cedar": ""})
    assert re.fullmatch(r"[0-9a-f]{12}", first)
    assert hashed("two", {"b.cedar": "", "a.cedar": PERMIT, "README.md": "not a part"}) == first
    others = [
        hashed("three", {"a.cedar": PERMIT + "\n", "b.cedar": ""}),
        hashed("four", {"a.cedar": "", "b.cedar": PERMIT}),
        hashed("five", {"a.cedar": PERMIT, "b.cedar": "", "entities.json": "[]"}),
        load_bundle().hash,
    ]
    assert len({first, *others}) == 5


@pytest.mark.requirement("policy.layers")
def test_a_file_of_the_operator_replaces_the_fleets_and_ours_of_the_same_name(tmp_path: Path) -> None:
    fleet = write_files(
        tmp_path / "fleet", {"a.cedar": PERMIT, "session.cedarschema": session("who?: String")}
    )
    operator = write_files(tmp_path / "own", {"a.cedar": f"\n{PERMIT}", "default.cedar": ""})
    bundle = load_bundle(fleet=fleet, operator=operator)
    assert [(file.name, file.layer, file.replaces) for file in bundle.files] == [
        ("a.cedar", "operator", "fleet"),
        ("default.cedar", "operator", "default"),
        ("schema.cedarschema", "default", None),
        ("session.cedarschema", "fleet", "default"),
    ]
    assert [(rule.file, rule.line) for rule in bundle.rules.values()] == [("a.cedar", 2)]
    assert bundle.facts == {"who": "String"}


@pytest.mark.requirement("policy.layers")
def test_a_policy_may_be_written_in_any_way_that_cedar_reads(policy_of: PolicyOf) -> None:
    text = (
        '\ufeff@id("odd") // a comment; with "quotes\r\nforbid (principal, action, resource)\r\n'
        'when { context.facts.contains("a;b\\"//c") };'
    )
    policy = policy_of({"odd.cedar": text})
    assert policy.decide(asked()).allowed
    told = policy.decide(asked(facts={'a;b"//c': True}))
    assert not told.allowed
    assert told.reasons == ("odd (odd.cedar:1)",)


@pytest.mark.requirement("policy.entities")
def test_entities_carry_tags_and_groups(policy_of: PolicyOf) -> None:
    policy = policy_of(
        {
            "entities.json": entities(
                acme(tags={"plan": "trial"}),
                {
                    "uid": {"type": "User", "id": "acme/ann"},
                    "parents": [{"type": "Team", "id": "acme/night"}],
                },
            ),
            "own.cedar": """
                @id("trial") forbid (principal, action, resource)
                when { context.tenant.hasTag("plan") && context.tenant.getTag("plan") == "trial" }
                unless { context has user && context.user in Team::"acme/night" };
            """,
        }
    )
    assert not policy.decide(asked()).allowed
    assert policy.decide(asked(by=caller(user="ann"))).allowed
    assert not policy.decide(asked(by=caller(user="bob"))).allowed
    assert policy.decide(asked(by=caller(tenant="other"))).allowed


def test_the_agents_of_these_tests_are_known_to_the_default_policies(policy_of: PolicyOf) -> None:
    assert all(
        policy_of().decide(asked("memory:read", "docs", by=caller(name.partition(".")[2]))).allowed
        for name in AGENTS
    )
