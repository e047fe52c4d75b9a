"""The README and the operator's guide do what they say: their blocks are cut out and run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from admiralty.runtime.serve.environment import folders

UP_SECONDS = 240.0
ELSEWHERE = {
    "make demo": "installs from the package index, then `admiralty demo`: tests/cli",
    "make test": "is what runs this",
    "python3 -m venv .venv && . .venv/bin/activate": "installing is tested in tests/packaging and by .ci/run",
    "pip install -c constraints.txt torch && pip install -c constraints.txt '.[demo]'": "as above",
    "admiralty doctor": "tests/cli/test_commands.py runs it",
    "export OPENAI_API_KEY=...": "tests/core/test_settings.py: what each of these variables does",
    "export ADMIRALTY_MODELS__SMALL=openai:gpt-5.4-nano": "as above",
    "export ADMIRALTY_OPENAI_BASE_URL=http://127.0.0.1:8080/v1": "tests/serve runs on such a server",
    "export ADMIRALTY_MODELS__SMALL=openai:my-model": "as above",
    'export ADMIRALTY_PRICES=\'{"openai:my-model": {"dollars_per_hour": "1.20", "max_seconds": 60}}\'': (
        "tests/core/test_settings.py and tests/scheduler/test_money.py"
    ),
}
"""Commands of the README that are not run from here, and why."""

OPERATING = {
    "admiralty build fleets.support -o serve.yaml": "tests/serve/test_configuration.py",
    "serve deploy serve.yaml --address http://127.0.0.1:8265": "tests/serve/test_configuration.py",
    "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=.admiralty/ray-token": "tests/serve/test_security.py",
    "ray job submit --address http://127.0.0.1:8265 -- python my_job.py": "tests/serve/test_security.py",
    "serve status --address http://127.0.0.1:8265": "the same door as `serve deploy`; its output is Ray's",
    "admiralty up fleets.support --address 10.0.0.5:6379": "tests/serve/test_commands.py, for an own address",
    "admiralty keys create --name website": "tests/serve/test_commands.py",
    "admiralty keys list": "tests/serve/test_commands.py",
    "admiralty keys revoke KEY_ID": "tests/serve/test_commands.py",
    "sqlite3 .admiralty/admiralty.sqlite3 \".backup 'backup.sqlite3'\"": "a program of SQLite's",
    "ray up ray-cluster.yaml": "needs machines; the file is checked in tests/serve/test_configuration.py",
}
"""Commands of docs/operating.md: where they are run, or why not."""


def marked(text: str, mark: str) -> str:
    """Return the code block after ``<!-- mark -->``."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"no block marked {mark!r}"
    return found[1]


def commands(text: str) -> list[tuple[str, bool]]:
    """Return each command of the bash blocks, without its comment, and whether its block is marked to run."""
    result = []
    for mark, block in re.findall(r"(<!-- run: \w+ -->\n)?```bash\n(.*?)```", text, re.DOTALL):
        lines = [re.sub(r"\s+# .*", "", line).strip() for line in re.sub(r"\\\n\s*", "", block).splitlines()]
        result += [(line, bool(mark)) for line in lines if line]
    return result


@dataclass(frozen=True)
class Guide:
    """A newcomer's folder."""

    readme: str
    folder: Path
    environment: dict[str, str]
    port: int

    def run(self, *command: str, seconds: float = 120, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )


@pytest.fixture(scope="module")
def guide(
    root: Path, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Guide]:
    """A folder with the guide's file, where its commands run on ports that are free."""
    readme = (root / "README.md").read_text()
    folder = tmp_path_factory.mktemp("guide")
    (folder / "harbour.py").write_text(marked(readme, "file: harbour.py"))
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ADMIRALTY_"))}
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL"):
        clean.pop(name, None)
    # The command as it would be after installing, of the installation that runs this.
    binaries = folder / "bin"
    binaries.mkdir()
    program = binaries / "admiralty"
    program.write_text(f"#!{sys.executable}\nfrom admiralty.runtime.cli import main\nmain()\n")
    program.chmod(0o755)
    environment = clean | {
        "PATH": f"{binaries}:{clean['PATH']}",
        "ADMIRALTY_PORT": str(port),
        "ADMIRALTY_DASHBOARD_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    (folder / ".admiralty").mkdir()
    yield Guide(readme, folder, environment, port)
    shutil.rmtree(folders(folder / ".admiralty").run, ignore_errors=True)


@pytest.mark.requirement("readme.guide")
def test_the_fleet_of_the_guide_answers_in_one_process(guide: Guide) -> None:
    done = guide.run(sys.executable, "-c", marked(guide.readme, "run: python"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("berths says: ")
    listed = guide.run("admiralty", "agents", "harbour")
    assert "berth_status" in listed.stdout


@pytest.mark.requirement("readme.guide")
def test_the_fleet_of_the_guide_answers_from_its_tool(guide: Guide) -> None:
    done = guide.run(sys.executable, "-c", marked(guide.readme, "run: python"))
    assert "Aurora" in done.stdout


@pytest.mark.requirement("readme.guide")
def test_the_commands_that_govern_the_fleet_do_what_they_say(guide: Guide) -> None:
    done = guide.run("sh", "-ec", marked(guide.readme, "run: govern"))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "conversation:default/*" in done.stdout
    assert (guide.folder / "spend.csv").read_text().count("BilledCost") == 1


@pytest.mark.ray
@pytest.mark.requirement("readme.guide")
def test_the_fleet_of_the_guide_is_served_and_answers_chat_and_curl(guide: Guide) -> None:
    assert shutil.which("curl"), "the guide uses curl"
    log = guide.folder / "up.log"
    command = marked(guide.readme, "run: up").split()
    with log.open("wb") as file:
        up = subprocess.Popen(  # beside whatever Ray this machine has
            [*command, "--beside-other-ray"],
            cwd=guide.folder, env=guide.environment, stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        until = time.monotonic() + UP_SECONDS
        while "Ctrl-C drains" not in log.read_text():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        key = re.search(r"Key\s+(adm_\S+)", log.read_text())
        assert key, log.read_text()
        script = marked(guide.readme, "run: client")
        script = script.replace("adm_...", key[1]).replace(":8000/", f":{guide.port}/")
        done = guide.run("sh", "-ec", script)
        assert done.returncode == 0, done.stderr
        assert "triage hands off to berths" in done.stdout
        assert '"object":"chat.completion"' in done.stdout.replace(" ", "")
        shown = re.search(r"^curl .*?\n.*?$", log.read_text(), re.MULTILINE)
        assert shown, "up shows a curl"
        assert guide.run("sh", "-ec", shown[0]).stdout.count("chat.completion") == 1
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(120) == 0, log.read_text()


@pytest.mark.requirement("readme.commands")
def test_every_command_of_the_readme_is_run_or_has_a_reason(root: Path) -> None:
    found = commands((root / "README.md").read_text())
    assert {command for command, is_run in found if not is_run} == set(ELSEWHERE)
    assert sum(is_run for _, is_run in found) >= 3


@pytest.mark.requirement("readme.commands")
def test_every_command_of_the_operators_guide_is_run_or_has_a_reason(root: Path) -> None:
    found = {command for command, _ in commands((root / "docs" / "operating.md").read_text())}
    assert found == set(OPERATING)
