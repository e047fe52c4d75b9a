"""Identifiers: a short prefix that says what it is, then a time-ordered UUID (version 7)."""

from __future__ import annotations

import os
import time


def new_id(prefix: str) -> str:
    """Return ``prefix_`` and 32 hex digits of a UUIDv7 (RFC 9562): unique, sorted by creation time.

    Prefixes in use: ``conv`` conversation, ``run`` run, ``call`` model or tool call, ``key`` API key, ``dec``
    a policy's decision.
    """
    millis = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (millis & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | (random & ((1 << 62) - 1))
    return f"{prefix}_{value:032x}"
