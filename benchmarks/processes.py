"""Start, measure and end the processes of a system, with all their descendants.

Descendants are found by parentage and by a mark in their environment: Ray and HAProxy detach from whoever
started them, and Ray's workers overwrite their environment with their title. Only these are ever signalled.
"""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

MARK: Final = "ADMIRALTY_BENCHMARK"
ROOT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class ProcessUse:
    """What one process uses now."""

    pid: int
    name: str
    cpu_seconds: float
    rss_mb: float
    """Resident set; pages shared between processes count in each."""
    pss_mb: float
    """The same, with each shared page divided among those who share it: these can be summed."""
    uss_mb: float
    """Memory that ending this process would free."""


class ProcessGroup:
    """One command and everything it starts."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._mark = uuid.uuid4().hex
        self._seen: dict[int, bytes] = {}
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._main = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **(environment or {}), MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def running(self) -> bool:
        """Whether the command itself still runs."""
        return self._main.poll() is None

    def output(self, characters: int = 3000) -> str:
        """The end of what the command wrote."""
        self._log.flush()
        return os.pread(self._log.fileno(), 10_000_000, 0).decode(errors="replace")[-characters:]

    def pids(self) -> list[int]:
        """All live processes that carry the mark or descend from one that does, and those once found."""
        mark = f"{MARK}={self._mark}".encode()
        stats = {pid: fields for pid in _all_pids() if (fields := _stat(pid)) is not None}
        mine = {pid for pid in stats if mark in (_read(pid, "environ") or b"").split(b"\0")}
        # A number may have been given to another process since: its start time tells.
        mine |= {pid for pid, started in self._seen.items() if pid in stats and stats[pid][19] == started}
        while more := {pid for pid, fields in stats.items() if int(fields[1]) in mine} - mine:
            mine |= more
        self._seen |= {pid: stats[pid][19] for pid in mine}
        return sorted(pid for pid in mine if stats[pid][0] != b"Z")

    def use(self) -> list[ProcessUse]:
        """CPU and memory of each process, by pid."""
        return [use for pid in self.pids() if (use := process_use(pid)) is not None]

    def stop(self, grace_seconds: float = 20.0) -> None:
        """Ask the command to end, wait, then kill whatever it left behind."""
        if self.running:
            self._main.terminate()
            try:
                self._main.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                self._main.kill()
                self._main.wait(5)
        for _ in range(100):
            left = self.pids()
            if not left:
                break
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self._log.close()


def process_use(pid: int) -> ProcessUse | None:
    """What a process uses, read from Linux's /proc; None if it is gone."""
    fields, memory = _stat(pid), _read(pid, "smaps_rollup")
    if fields is None or not memory:
        return None
    lines = [line.split() for line in memory.splitlines() if line.endswith(b"kB")]
    kilobytes = {words[0]: int(words[1]) for words in lines}
    return ProcessUse(
        pid=pid,
        name=_short_name(pid),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        rss_mb=kilobytes[b"Rss:"] / 1024,
        pss_mb=kilobytes[b"Pss:"] / 1024,
        uss_mb=(kilobytes[b"Private_Clean:"] + kilobytes[b"Private_Dirty:"]) / 1024,
    )


def family_cpu_seconds(pid: int) -> float:
    """CPU seconds that a process, its children, and those of its children that have ended have used."""
    ticks = 0
    for other in _all_pids():
        fields = _stat(other)
        if fields is not None and (other == pid or int(fields[1]) == pid):
            own, ended = fields[11:13], fields[13:15]
            ticks += sum(int(field) for field in (*own, *(ended if other == pid else ())))
    return ticks / os.sysconf("SC_CLK_TCK")


def cpu_between(before: Sequence[ProcessUse], after: Sequence[ProcessUse]) -> float:
    """CPU seconds used between two samples; a process that ended in between is not counted."""
    earlier = {use.pid: use.cpu_seconds for use in before}
    return sum(use.cpu_seconds - earlier.get(use.pid, 0.0) for use in after)


def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, group: ProcessGroup, timeout_seconds: float) -> None:
    """Wait until something listens on the port.

    Raises:
        RuntimeError: the command ended, or the time is up; with the end of its output.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if not group.running or time.monotonic() > deadline:
            state = "did not listen in time" if group.running else "ended"
            raise RuntimeError(f"port {port}: the command {state}. Its output ends:\n{group.output()}")
        time.sleep(0.05)


def kind_of(name: str) -> str:
    """What a process is for, by its name: ``gateway`` for ``ray::ServeReplica:admiralty:gateway``."""
    if name.startswith("ray::"):
        return name.rpartition(":")[2].partition(".")[0]
    return "dashboard module" if name.startswith("ray-dashboard") else name


def cpu_by_kind(before: Sequence[ProcessUse], after: Sequence[ProcessUse]) -> dict[str, float]:
    """CPU seconds used between two samples by the processes of each kind, most first."""
    earlier = {use.pid: use.cpu_seconds for use in before}
    used: defaultdict[str, float] = defaultdict(float)
    for use in after:
        used[kind_of(use.name)] += use.cpu_seconds - earlier.get(use.pid, 0.0)
    return dict(sorted(used.items(), key=lambda item: -item[1]))


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _read(pid: int, name: str) -> bytes | None:
    """A file of /proc/PID; None for a process that is gone or somebody else's."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return None


def _stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat behind the name, which may contain spaces: state first."""
    stat = _read(pid, "stat")
    return stat.rpartition(b")")[2].split() if stat else None


def _short_name(pid: int) -> str:
    command = (_read(pid, "cmdline") or b"").decode(errors="replace").rstrip("\0").split("\0")
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1]
    if command[0].startswith("ray::"):
        return command[0].partition(" ")[0][:60]
    if "-c" in command[:-1]:
        code = command[command.index("-c") + 1]
        return module[1] if (module := re.match(r"(?:from|import) ([\w.]+)", code)) else "python -c"
    script = next((Path(part).stem for part in command[1:3] if part.endswith(".py")), "")
    return (script or Path(command[0].partition(" ")[0]).name)[:60]
