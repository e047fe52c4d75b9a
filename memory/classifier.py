"""A small intent classifier on embeddings: what triage uses where no model is to be asked.

Multinomial logistic regression, fitted on all examples at once in plain numpy; the same examples
give the same classifier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from admiralty.core.errors import DefinitionError
from admiralty.core.ports import Embedder

Matrix = NDArray[np.float64]

_PENALTY = 5e-5
"""Weight of the squared weights. Accuracy hardly depends on it; on held-out banking questions this one
kept mean confidence within a few points of the share of right answers, 100 times as much halved it."""
_STEPS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a text was taken for."""

    label: str
    confidence: float
    """Probability of ``label``, 0 to 1."""
    margin: float
    """How far ``confidence`` stands above the next label's probability, 0 to 1."""
    ranking: tuple[tuple[str, float], ...]
    """Every label with its probability, most probable first; they add up to 1."""


class IntentClassifier:
    """Tells which label a text has, and how sure that is.

    It knows only its labels: for a text of another kind, ``confidence`` and ``margin`` are low at
    best, so callers compare them with thresholds of their own.
    """

    def __init__(self, embedder: Embedder, labels: Sequence[str], weights: Matrix, bias: Matrix) -> None:
        """For ``fit``: weights of shape (dimension, labels) and bias of shape (labels,)."""
        self._embedder, self._labels = embedder, tuple(labels)
        self._weights, self._bias = weights, bias

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @classmethod
    async def fit(cls, embedder: Embedder, examples: Mapping[str, Sequence[str]]) -> IntentClassifier:
        """Learn from ``examples``, texts by label; each label counts alike, however many it has.

        Raises DefinitionError for fewer than two labels and for a label without examples.
        """
        _check(examples)
        labels = tuple(examples)
        vectors = await embedder.embed([text for label in labels for text in examples[label]])
        answers = np.repeat(np.arange(len(labels)), [len(examples[label]) for label in labels])
        weights, bias = await asyncio.to_thread(_fit, vectors.astype(np.float64), answers, len(labels))
        return cls(embedder, labels, weights, bias)

    async def predict(self, text: str) -> Prediction:
        """Return the label of ``text``; concurrent predictions share a batch of the embedder."""
        vector = (await self._embedder.embed([text]))[0]
        probabilities = _softmax((vector @ self._weights + self._bias)[None, :])[0]
        order = np.argsort(-probabilities, kind="stable")
        ranking = tuple((self._labels[place], float(probabilities[place])) for place in order)
        return Prediction(
            label=ranking[0][0],
            confidence=ranking[0][1],
            margin=ranking[0][1] - ranking[1][1],
            ranking=ranking,
        )


def _check(examples: Mapping[str, Sequence[str]]) -> None:
    if len(examples) < 2:
        raise DefinitionError(
            "examples", sorted(examples), "there is nothing to tell apart", "Give at least two labels."
        )
    for label, texts in examples.items():
        if isinstance(texts, str) or not texts:
            raise DefinitionError(
                f"examples[{label!r}]", texts, "no list of example texts", "Give about ten texts a label."
            )


def _fit(vectors: Matrix, answers: NDArray[np.intp], labels: int) -> tuple[Matrix, Matrix]:
    """Minimise the mean log loss plus ``_PENALTY / 2`` times the squared weights, by Nesterov's method."""
    centre = vectors.mean(axis=0)
    inputs = vectors - centre  # embeddings share a large common part, which slows convergence down
    wanted = np.eye(labels)[answers]
    counts = wanted.sum(axis=0)
    importance = (1.0 / (labels * counts))[answers][:, None]
    # The loss's curvature is at most half the largest eigenvalue of the weighted inputs (Boehning 1992).
    largest = float(np.linalg.norm(np.sqrt(importance) * np.c_[inputs, np.ones(len(inputs))], ord=2)) ** 2
    step = 1.0 / (0.5 * largest + _PENALTY)
    solution = ahead = np.zeros((inputs.shape[1] + 1, labels))
    for number in range(_STEPS):
        scores = inputs @ ahead[:-1] + ahead[-1]
        wrong = importance * (_softmax(scores) - wanted)
        gradient = np.vstack([inputs.T @ wrong + _PENALTY * ahead[:-1], wrong.sum(axis=0)])
        previous, solution = solution, ahead - step * gradient
        ahead = solution + number / (number + 3) * (solution - previous)
    weights = solution[:-1]
    return weights, solution[-1] - centre @ weights


def _softmax(scores: Matrix) -> Matrix:
    powers: Matrix = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Matrix = powers / powers.sum(axis=1, keepdims=True)
    return shares
