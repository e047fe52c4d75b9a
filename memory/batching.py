"""Brings concurrent requests for embeddings together and computes them in one worker thread.

Above: the embedders, which give a plain function from texts to vectors. This module must not know
what computes them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from admiralty.core.ports import Vectors

MAX_CHARACTERS = 32_768
"""What stands behind this in a text is not read: it is far beyond the window of any such model, and
one huge text must not hold up everybody else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    texts: Sequence[str]
    keys: Sequence[bytes]
    done: Future[list[np.ndarray]] = field(default_factory=Future)


class BatchedEncoder:
    """Runs ``encode`` over texts, off the event loop, in batches, remembering recent results.

    Requests that arrive while a batch is computed go into the next one. A large request is cut
    into batches, between which others get their turn. May be used from several event loops.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], Vectors],
        dimension: int,
        *,
        max_batch: int = 32,
        cache_size: int = 4096,
    ) -> None:
        """Take ``encode``, which gives one row of length ``dimension`` for each text.

        ``cache_size`` is the number of vectors kept (MiniLM: 1.5 kB each), least recently used
        forgotten first.
        """
        self._encode, self._dimension = encode, dimension
        self._max_batch, self._cache_size = max_batch, cache_size
        self._cache: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._waiting: list[_Request] = []
        self._running = False
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row for each of ``texts``, in order; raises what ``encode`` raises."""
        readable = [_readable(text) for text in texts]
        keys = [_key(text) for text in readable]
        rows = self._remembered(keys)
        by_key = dict(zip(keys, readable, strict=True))
        missing = [(key, text) for key, text in by_key.items() if key not in rows]
        for start in range(0, len(missing), self._max_batch):
            part = missing[start : start + self._max_batch]
            request = _Request(texts=[text for _, text in part], keys=[key for key, _ in part])
            self._submit(request)
            found = await asyncio.wrap_future(request.done)
            rows.update(zip(request.keys, found, strict=True))
        if not keys:
            return np.zeros((0, self._dimension), dtype=np.float32)
        return np.stack([rows[key] for key in keys])

    def _remembered(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        with self._lock:
            known = {key: self._cache[key] for key in keys if key in self._cache}
            for key in known:
                self._cache.move_to_end(key)
        return known

    def _submit(self, request: _Request) -> None:
        with self._lock:
            self._waiting.append(request)
            start, self._running = not self._running, True
        if start:
            self._thread.submit(self._drain)

    def _drain(self) -> None:
        while batch := self._take():
            # A caller that was cancelled while it waited is left out of the batch.
            wanted = [request for request in batch if request.done.set_running_or_notify_cancel()]
            try:
                rows = self._compute(wanted)
            except BaseException as error:  # it belongs to the callers, and the next batch must still run
                for request in wanted:
                    request.done.set_exception(error)
            else:
                for request in wanted:
                    request.done.set_result([rows[key] for key in request.keys])

    def _take(self) -> list[_Request]:
        """Take the requests of the next batch, at least one if any waits."""
        with self._lock:
            count = size = 0
            for request in self._waiting:
                size += len(request.texts)
                if count and size > self._max_batch:
                    break
                count += 1
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            self._running = bool(batch)
        return batch

    def _compute(self, requests: Sequence[_Request]) -> dict[bytes, np.ndarray]:
        texts = {
            key: text for request in requests for key, text in zip(request.keys, request.texts, strict=True)
        }
        if not texts:
            return {}
        rows = dict(zip(texts, self._encode(list(texts.values())), strict=True))
        with self._lock:
            self._cache.update(rows)
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return rows


def _readable(text: str) -> str:
    # JSON may carry half of a surrogate pair, which no tokenizer can read.
    return text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
