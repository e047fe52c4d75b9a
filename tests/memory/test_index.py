from __future__ import annotations

import numpy as np
import pytest

from admiralty.core.ports import Vectors
from admiralty.memory import VectorIndex, open_index
from admiralty.memory.index import FaissIndex, FlatIndex


def _unit_rows(count: int, seed: int) -> Vectors:
    rows = np.random.default_rng(seed).normal(size=(count, 24)).astype(np.float32)
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@pytest.fixture(params=["numpy", "faiss"])
def index(request: pytest.FixtureRequest) -> VectorIndex:
    if request.param == "numpy":
        return FlatIndex(24)
    request.getfixturevalue("faiss_installed")
    return FaissIndex(24)


@pytest.mark.requirement("memory.index")
def test_the_nearest_rows_come_first_with_their_cosine(index: VectorIndex) -> None:
    rows = _unit_rows(50, seed=1)
    index.add(rows[:20])
    index.add(rows[20:])
    assert len(index) == 50
    query = _unit_rows(1, seed=2)[0]
    hits = index.search(query, 7)
    expected = np.argsort(-(rows @ query))[:7]
    assert [row for row, _ in hits] == expected.tolist()
    np.testing.assert_allclose([score for _, score in hits], (rows @ query)[expected], atol=1e-5)


@pytest.mark.requirement("memory.index")
@pytest.mark.parametrize(("limit", "found"), [(0, 0), (-1, 0), (3, 3), (50, 5)])
def test_no_more_rows_are_found_than_there_are_or_are_asked_for(
    index: VectorIndex, limit: int, found: int
) -> None:
    index.add(_unit_rows(5, seed=3))
    assert len(index.search(_unit_rows(1, seed=4)[0], limit)) == found


@pytest.mark.requirement("memory.index")
def test_an_empty_index_finds_nothing(index: VectorIndex) -> None:
    index.add(_unit_rows(0, seed=0))
    assert index.search(_unit_rows(1, seed=4)[0], 3) == []


@pytest.mark.requirement("memory.index")
def test_equal_rows_come_in_the_order_they_were_added(index: VectorIndex) -> None:
    row = _unit_rows(1, seed=5)
    index.add(np.repeat(row, 9, axis=0))
    assert [found for found, _ in index.search(row[0], 9)] == list(range(9))


@pytest.mark.requirement("memory.index")
@pytest.mark.usefixtures("faiss_installed")
def test_faiss_and_numpy_give_the_same_answers() -> None:
    rows, queries = _unit_rows(500, seed=6), _unit_rows(20, seed=7)
    flat, faiss = FlatIndex(24), FaissIndex(24)
    flat.add(rows)
    faiss.add(rows)
    for query in queries:
        ours, theirs = flat.search(query, 10), faiss.search(query, 10)
        assert [row for row, _ in ours] == [row for row, _ in theirs]
        np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-5)


@pytest.mark.requirement("memory.index")
def test_numpy_serves_where_faiss_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert isinstance(open_index(24), FlatIndex)
