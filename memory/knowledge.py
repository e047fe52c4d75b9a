"""What a fleet's documents say: the Memory port in this process.

Above: agents and the ``memory`` deployment. This module must not know where documents come from.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from admiralty.core.errors import NotFound
from admiralty.core.ports import Embedder, Vectors
from admiralty.core.values import Passage
from admiralty.memory.index import Vector, VectorIndex, open_index
from admiralty.memory.passages import split_passages
from admiralty.memory.words import content_stems

OVERLAP_WEIGHT = 0.2
"""How much shared words count beside the cosine when passages are ranked. With MiniLM, the right section of
a retail policy came first for 22 of 24 short questions instead of 20 (hashed features: 17 instead of 16).
From 0.1 to 0.4 nothing changes much, and beyond it gets worse again."""

CANDIDATES = 50
"""Nearest passages that are ranked again with shared words."""


@dataclass(frozen=True, kw_only=True)
class _Corpus:
    passages: tuple[Passage, ...]
    stems: tuple[frozenset[str], ...]
    """Of each passage and its headings."""
    rarity: Mapping[str, float]
    """Inverse document frequency of each stem."""
    index: VectorIndex


class Knowledge:
    """Corpora of documents, searched by meaning and by shared words."""

    def __init__(self, embedder: Embedder, corpora: Mapping[str, _Corpus]) -> None:
        """For ``build``, which is the way to make one."""
        self._embedder = embedder
        self._corpora = dict(corpora)

    @classmethod
    async def build(cls, embedder: Embedder, corpora: Mapping[str, Mapping[str, str]]) -> Knowledge:
        """Split and embed ``corpora``: by corpus name, by source name, the text (Markdown or plain)."""
        built = {name: await _build_corpus(embedder, documents) for name, documents in corpora.items()}
        return cls(embedder, built)

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora."""
        return tuple(self._corpora)

    async def search(self, corpus: str, query: str, *, limit: int = 4) -> list[Passage]:
        """Return the best passages first, by cosine and shared words; ``score`` is the cosine alone."""
        found = self._corpora.get(corpus)
        if found is None:
            known = ", ".join(sorted(self._corpora)) or "none"
            raise NotFound(f"corpus = {corpus!r}: no such corpus. Known corpora: {known}.", corpus=corpus)
        vector = (await self._embedder.embed([query]))[0]
        return await asyncio.to_thread(_rank, found, query, vector, limit)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await self._embedder.embed(texts)


async def _build_corpus(embedder: Embedder, documents: Mapping[str, str]) -> _Corpus:
    passages = [passage for source, text in documents.items() for passage in split_passages(source, text)]
    # Headings are embedded with the text: a rule often leaves unsaid what its heading says.
    texts = [f"{passage.heading}\n{passage.text}" for passage in passages]
    index = open_index(embedder.dimension)
    index.add(await embedder.embed(texts))
    stems = tuple(frozenset(content_stems(text)) for text in texts)
    frequency = Counter(stem for found in stems for stem in found)
    rarity = {stem: math.log(1 + len(stems) / count) for stem, count in frequency.items()}
    return _Corpus(passages=tuple(passages), stems=stems, rarity=rarity, index=index)


def _rank(corpus: _Corpus, query: str, vector: Vector, limit: int) -> list[Passage]:
    hits = corpus.index.search(vector, max(limit, CANDIDATES)) if limit > 0 else []
    ranked = sorted(hits, key=lambda hit: -(hit[1] + OVERLAP_WEIGHT * _overlap(corpus, query, hit[0])))
    return [
        replace(corpus.passages[row], score=float(np.clip(score, -1.0, 1.0))) for row, score in ranked[:limit]
    ]


def _overlap(corpus: _Corpus, query: str, row: int) -> float:
    """Return the share of the query's words that the passage has, 0 to 1, rare words counting more."""
    asked = {stem: corpus.rarity[stem] for stem in content_stems(query) if stem in corpus.rarity}
    if not asked:
        return 0.0
    return sum(asked[stem] for stem in asked.keys() & corpus.stems[row]) / sum(asked.values())
