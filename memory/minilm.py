"""The packaged all-MiniLM-L6-v2 in numpy: the vectors of sentence-transformers, without torch.

Importing torch and sentence-transformers takes six seconds of processor time and 600 MB, most of
what a small fleet needs to start; this model's forward pass is eighty lines. It reads the
same files. What other models need, sentence-transformers knows; this module knows one architecture:
BERT with mean pooling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from admiralty.core.errors import ConfigurationError
from admiralty.core.ports import Vectors

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """Weights of one transformer layer, each matrix as (inputs, outputs)."""

    qkv: Array
    qkv_bias: Array
    attention_out: Array
    attention_out_bias: Array
    attention_norm: tuple[Array, Array]
    up: Array
    up_bias: Array
    down: Array
    down_bias: Array
    norm: tuple[Array, Array]


class MiniLM:
    """Turns texts into vectors of length 1; stateless after construction."""

    def __init__(self, folder: Path) -> None:
        """Read the model in ``folder``, as sentence-transformers saves it.

        Raises ConfigurationError if it is of another architecture or cannot be read.
        """
        try:
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer

            config = _json(folder / "config.json")
            pooling = _json(folder / "1_Pooling" / "config.json")
            if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
                raise ValueError(f"a {config['model_type']} model with {config['hidden_act']}")
            if not pooling["pooling_mode_mean_tokens"]:
                raise ValueError("another pooling than the mean of the tokens")
            weights: Mapping[str, Array] = load_file(folder / "model.safetensors")
            self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._tokenizer.enable_truncation(_json(folder / "sentence_bert_config.json")["max_seq_length"])
            self._tokenizer.no_padding()
            self._heads = int(config["num_attention_heads"])
            self._epsilon = np.float32(config["layer_norm_eps"])
            self._words = weights["embeddings.word_embeddings.weight"]
            self._places = (
                weights["embeddings.position_embeddings.weight"]
                + weights["embeddings.token_type_embeddings.weight"][0]
            )
            self._norm = _pair(weights, "embeddings.LayerNorm")
            self._layers = [_layer(weights, number) for number in range(config["num_hidden_layers"])]
        except (ImportError, OSError, KeyError, ValueError) as error:
            raise ConfigurationError(
                f"{folder} is not a MiniLM that can be read ({error}). "
                "Set ADMIRALTY_EMBEDDER=sentence-transformers to load it the long way."
            ) from error

    @property
    def dimension(self) -> int:
        return int(self._words.shape[1])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one row for each of ``texts``; a few at once are faster than each alone."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        ids = [item.ids for item in self._tokenizer.encode_batch(list(texts))]
        ends = np.cumsum([len(item) for item in ids])
        spans = [slice(end - len(item), end) for end, item in zip(ends, ids, strict=True)]
        # All texts' tokens are the rows of one matrix, without padding; only attention goes text by text.
        states = self._words[np.concatenate(ids)]
        states += self._places[np.concatenate([np.arange(len(item)) for item in ids])]
        states = self._normed(states, self._norm)
        for layer in self._layers:
            states = self._normed(states + self._attention(states, spans, layer), layer.attention_norm)
            inner = _gelu(states @ layer.up + layer.up_bias)
            states = self._normed(states + inner @ layer.down + layer.down_bias, layer.norm)
        means = np.stack([states[span].mean(axis=0) for span in spans])
        vectors: Vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return vectors

    def _attention(self, states: Array, spans: Sequence[slice], layer: _Layer) -> Array:
        count, width = states.shape
        size = width // self._heads
        parts = (states @ layer.qkv + layer.qkv_bias).reshape(count, 3, self._heads, size)
        query, key, value = parts.transpose(1, 2, 0, 3)
        mixed = np.empty((count, self._heads, size), dtype=np.float32)
        for span in spans:
            scores = query[:, span] @ key[:, span].transpose(0, 2, 1) * np.float32(size**-0.5)
            powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
            powers /= powers.sum(axis=-1, keepdims=True)
            mixed[span] = (powers @ value[:, span]).transpose(1, 0, 2)
        result: Array = mixed.reshape(count, width) @ layer.attention_out
        return result + layer.attention_out_bias

    def _normed(self, states: Array, weights: tuple[Array, Array]) -> Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + self._epsilon)
        result: Array = centred / spread * weights[0] + weights[1]
        return result


def _gelu(values: Array) -> Array:
    """Return ``x * P(X <= x)`` for a normal X; erfc as in Abramowitz and Stegun 7.1.26, error < 1.5e-7."""
    scaled = np.abs(values) * np.float32(2**-0.5)
    t = 1 / (1 + np.float32(0.3275911) * scaled)
    series = t * np.float32(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += np.float32(coefficient)
        series *= t
    scaled *= scaled
    np.negative(scaled, out=scaled)
    half_erfc = series * np.exp(scaled, out=scaled) * np.float32(0.5)
    result: Array = values * np.where(values > 0, 1 - half_erfc, half_erfc)
    return result


def _layer(weights: Mapping[str, Array], number: int) -> _Layer:
    layer = f"encoder.layer.{number}"
    attention = f"{layer}.attention"
    qkv = [_pair(weights, f"{attention}.self.{name}") for name in ("query", "key", "value")]
    out, out_bias = _pair(weights, f"{attention}.output.dense")
    up, up_bias = _pair(weights, f"{layer}.intermediate.dense")
    down, down_bias = _pair(weights, f"{layer}.output.dense")
    return _Layer(
        qkv=np.ascontiguousarray(np.concatenate([weight for weight, _ in qkv]).T),
        qkv_bias=np.concatenate([bias for _, bias in qkv]),
        attention_out=np.ascontiguousarray(out.T),
        attention_out_bias=out_bias,
        attention_norm=_pair(weights, f"{attention}.output.LayerNorm"),
        up=np.ascontiguousarray(up.T),
        up_bias=up_bias,
        down=np.ascontiguousarray(down.T),
        down_bias=down_bias,
        norm=_pair(weights, f"{layer}.output.LayerNorm"),
    )


def _pair(weights: Mapping[str, Array], name: str) -> tuple[Array, Array]:
    return weights[f"{name}.weight"].astype(np.float32), weights[f"{name}.bias"].astype(np.float32)


def _json(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text())
    return result
