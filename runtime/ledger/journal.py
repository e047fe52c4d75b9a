"""What calls cost, written to a file the moment it is known: kill -9 before the commit loses none of it.

Each process has a file of its own, locked while it lives. Whoever finds one that nobody locks settles
what stands in it; a settlement is idempotent, so that one too many does no harm.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from admiralty.core.money import Nanos
from admiralty.runtime.ledger.batch import HeldMoney, Settlement
from admiralty.runtime.ledger.rows import charges_json, entry_row, read_charges, read_entry

logger = logging.getLogger(__name__)

MAX_BYTES = 1_000_000
"""A file larger than that is written anew, with what is open only."""


class Journal:
    """The journal of this process, in ``folder``."""

    def __init__(self, folder: Path, owner: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / f"{owner}.jsonl"
        self._file: int | None = _locked(self._path)
        self._open: dict[str, bytes] = {}
        self._bytes = 0

    def add(self, settlements: Iterable[Settlement]) -> None:
        """Note settlements, in one write. Survives the end of this process, not of the machine."""
        lines = {settlement.entry.id: _line(settlement) for settlement in settlements}
        self._open |= lines
        if self._bytes > MAX_BYTES and self._file is not None:
            os.ftruncate(self._file, 0)
            self._bytes = 0
            lines = self._open
        self._write(b"".join(lines.values()))

    def done(self, ids: Iterable[str]) -> None:
        """Take note that settlements are committed. Not written: what is settled twice counts once."""
        for entry_id in ids:
            self._open.pop(entry_id, None)

    def close(self) -> None:
        """Let go of the file; it goes away if nothing is open."""
        if self._file is None:
            return
        if not self._open:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None  # the number may be another file's soon

    def abandoned(self) -> Iterator[tuple[Path, list[Settlement]]]:
        """Yield what processes that have died left open, with the file: remove it once that is settled.

        The lock is held while the caller works.
        """
        for path in sorted(self._folder.glob("*.jsonl")):
            if path == self._path:
                continue
            try:
                file = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_nlink:  # else another has settled and removed it meanwhile
                    yield path, list(_read(path))
            except BlockingIOError:
                continue
            finally:
                os.close(file)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            logger.error(
                "settled after the journal was closed; the holds will be charged at their worst case"
            )
            return
        try:
            self._bytes += os.write(self._file, data)
        except OSError as error:  # a full disk: the commit follows all the same
            logger.warning("the journal %s cannot be written: %s", self._path, error)


def _line(settlement: Settlement) -> bytes:
    hold = settlement.hold
    told = {
        "entry": entry_row(settlement.entry),
        "hold": hold and {"id": hold.id, "amount": hold.amount, "charges": charges_json(hold.charges)},
    }
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def _read(path: Path) -> Iterator[Settlement]:
    found: dict[str, Settlement] = {}
    with path.open("rb") as lines:
        for line in lines:
            try:
                settlement = _settlement(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                # A write that was broken off, or of another version; the next line stands for itself.
                logger.warning("a line of the journal %s cannot be read: %.200r", path, line)
                continue
            found[settlement.entry.id] = settlement
    yield from found.values()


def _settlement(told: dict[str, Any]) -> Settlement:
    hold = told["hold"]
    held = None
    if hold is not None:
        held = HeldMoney(id=hold["id"], amount=Nanos(hold["amount"]), charges=read_charges(hold["charges"]))
    return Settlement(entry=read_entry(told["entry"]), hold=held)


def _locked(path: Path) -> int:
    """Open a file of ours and lock it; again if somebody took it for a dead process's meanwhile."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return file
        os.close(file)
