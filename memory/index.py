"""Vector indexes: rows in the order they were added, found by inner product.

FAISS where it is installed, plain numpy otherwise, with the same answers. This module must not
know what the rows stand for.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from admiralty.core.ports import Vectors

Vector = NDArray[np.float32]

Hit = tuple[int, float]
"""Row and inner product, which for rows of length 1 is the cosine."""


class VectorIndex(Protocol):
    """Finds the rows nearest to a vector. Not for use from two threads at once while adding."""

    def __len__(self) -> int: ...

    def add(self, vectors: Vectors) -> None:
        """Append rows, shape (n, dimension)."""
        ...

    def search(self, vector: Vector, limit: int) -> list[Hit]:
        """Return up to ``limit`` rows nearest to ``vector``, best first, equals by row."""
        ...


def open_index(dimension: int) -> VectorIndex:
    """Return an empty index, by FAISS if it is installed."""
    return FaissIndex(dimension) if find_spec("faiss") is not None else FlatIndex(dimension)


class FlatIndex:
    """Compares with every row, in numpy."""

    def __init__(self, dimension: int) -> None:
        self._rows: Vectors = np.zeros((0, dimension), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, vectors: Vectors) -> None:
        self._rows = np.concatenate([self._rows, vectors])

    def search(self, vector: Vector, limit: int) -> list[Hit]:
        scores = self._rows @ vector
        limit = max(0, min(limit, len(scores)))
        best = np.argpartition(-scores, limit - 1)[:limit] if 0 < limit < len(scores) else range(limit)
        return _ordered((int(row), float(scores[row])) for row in best)


class FaissIndex:
    """Compares with every row, in FAISS (IndexFlatIP)."""

    def __init__(self, dimension: int) -> None:
        import faiss

        self._index: Any = faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, vectors: Vectors) -> None:
        self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def search(self, vector: Vector, limit: int) -> list[Hit]:
        limit = min(limit, len(self))
        if limit < 1:
            return []
        scores, rows = self._index.search(np.ascontiguousarray(vector, dtype=np.float32)[None, :], limit)
        return _ordered((int(row), float(score)) for row, score in zip(rows[0], scores[0], strict=True))


def _ordered(hits: Any) -> list[Hit]:
    # Rounded, because equal rows may differ in the last bit depending on where they stand.
    return sorted(hits, key=lambda hit: (-round(hit[1], 6), hit[0]))
