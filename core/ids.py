"""Identifiers: a short prefix that says what it is, then a time-ordered UUID (version 7)."""

from __future__ import annotations

import os
import threading
import time


class _Entropy:
    """Random bytes of the system's, fetched many at a time: asking for them costs more than using them."""

    def __init__(self) -> None:
        self._bytes = b""
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)  # two processes must not use the same

    def take(self, number: int) -> bytes:
        with self._lock:
            if len(self._bytes) < number:
                self._bytes = os.urandom(4096)
            taken, self._bytes = self._bytes[:number], self._bytes[number:]
            return taken

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._bytes = b""


_entropy = _Entropy()


def new_id(prefix: str) -> str:
    """Return ``prefix_`` and 32 hex digits of a UUIDv7 (RFC 9562): unique, sorted by creation time.

    Prefixes in use: ``conv`` conversation, ``run`` run, ``call`` model or tool call, ``key`` API key, ``dec``
    a policy's decision.
    """
    millis = time.time_ns() // 1_000_000
    random = int.from_bytes(_entropy.take(10), "big")
    value = (millis & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | (random & ((1 << 62) - 1))
    return f"{prefix}_{value:032x}"
