"""Errors cross process borders whole, and become problem documents that give nothing away."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from admiralty.core import errors
from admiralty.core.errors import AdmiraltyError, DefinitionError, InvalidRequest, RateLimited, Retryable
from admiralty.runtime.problems import problem

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, AdmiraltyError) and kind is not DefinitionError
]


@pytest.mark.requirement("errors.pickle")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling_and_copying(kind: type[AdmiraltyError]) -> None:
    options = {"retry_after": 2.5} if issubclass(kind, Retryable) else {}
    error = kind("The reason.", tool="x", **options)
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(same) is kind
        assert (str(same), same.message, same.details) == ("The reason.", "The reason.", {"tool": "x"})
        assert getattr(same, "retry_after", None) == getattr(error, "retry_after", None)


@pytest.mark.requirement("errors.problems")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_a_problem_document_with_its_own_code(kind: type[AdmiraltyError]) -> None:
    document = problem(kind("The reason.", conversation_id="conv_1"))
    assert document["type"] == f"urn:admiralty:problem:{kind.code}"
    assert document["code"] == kind.code
    assert document["detail"] == "The reason."
    assert document["conversation_id"] == "conv_1"
    assert 400 <= document["status"] <= 599
    assert (document["status"] < 500) == issubclass(
        kind,
        InvalidRequest
        | errors.Unauthenticated
        | errors.Denied
        | errors.BudgetExceeded
        | errors.LimitExceeded
        | errors.ApprovalRequired
        | errors.EffectUnknown
        | RateLimited,
    )


@pytest.mark.requirement("errors.problems")
def test_a_foreign_error_tells_nothing_of_its_inside() -> None:
    document = problem(KeyError("/etc/secret"))
    assert document["status"] == 500
    assert "secret" not in str(document)


def test_details_cannot_overwrite_what_a_problem_document_says() -> None:
    assert problem(RateLimited("Wait.", retry_after=3.0, status=200))["status"] == 429
    assert problem(RateLimited("Wait.", retry_after=3.0))["retry_after"] == 3.0
