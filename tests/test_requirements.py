"""Every promised behaviour is shown by a test, and every test's claim is a promise: checked both ways."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def _listed() -> list[dict[str, str]]:
    requirements: list[dict[str, str]] = tomllib.loads((TESTS / "requirements.toml").read_text())[
        "requirement"
    ]
    return requirements


def _shown() -> Iterator[tuple[str, str]]:
    """Yield (id, where) for each ``pytest.mark.requirement(...)`` in the tests' source."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "requirement"
            ):
                where = f"{path.relative_to(TESTS)}:{node.lineno}"
                for argument in node.args:
                    assert isinstance(argument, ast.Constant), f"{where}: write the ids out"
                    yield str(argument.value), where


@pytest.mark.requirement("tests.requirements")
def test_every_requirement_is_shown_by_a_test_and_every_shown_id_is_listed() -> None:
    listed = {requirement["id"] for requirement in _listed()}
    shown = dict(_shown())
    assert not (listed - set(shown)), "no test shows these requirements"
    assert not {name: where for name, where in shown.items() if name not in listed}, (
        "not in requirements.toml"
    )


def test_requirements_have_one_id_and_one_sentence_each() -> None:
    requirements = _listed()
    assert [name for name, count in Counter(item["id"] for item in requirements).items() if count > 1] == []
    for item in requirements:
        assert set(item) == {"id", "text"}, item
        assert item["text"].endswith("."), item
