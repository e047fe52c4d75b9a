"""What is installed: every package and every file that it needs, by wheel, plainly and as layered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

FOLDERS = ("agents", "core", "evals", "fleets", "memory", "runtime", "tools")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command without network and return what it printed; fail with all of that if it fails."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ADMIRALTY"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


def _files(root: Path) -> set[str]:
    """Everything in the packages' folders, by its place in the wheel."""
    return {
        f"admiralty/{path.relative_to(root).as_posix()}"
        for folder in FOLDERS
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.requirement("packaging.list")
def test_the_list_of_packages_names_every_folder_with_code(root: Path, project: dict[str, Any]) -> None:
    found = {Path(name).parent.as_posix().replace("/", ".") for name in _files(root) if name.endswith(".py")}
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(found)
    for package in found:
        folder = root / Path(*package.split(".")[1:])
        assert (folder / "__init__.py").is_file(), f"{package} has no __init__.py"
    assert set(project["tool"]["setuptools"]["package-dir"]) == {f"admiralty.{name}" for name in FOLDERS}
    assert not (root / "admiralty").exists()


@pytest.mark.requirement("packaging.dependencies")
def test_dependencies_and_constraints_name_no_registry_and_dev_has_everything(
    root: Path, project: dict[str, Any]
) -> None:
    extras = project["project"]["optional-dependencies"]
    assert {"postgres", "redis", "celery", "memory", "dev"} <= set(extras)
    for path in ("pyproject.toml", "constraints.txt"):
        for line in (root / path).read_text().splitlines():
            assert not line.startswith(("-i", "--index", "--extra-index", "--find-links")), line
            assert " @ " not in line, line


@pytest.fixture(scope="module")
def source(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from, so that a build leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    for folder in FOLDERS:
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", folder, source),
        cwd=folder,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.requirement("packaging.wheel")
def test_a_wheel_holds_every_file_of_every_package_and_nothing_else(source: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == _files(source)
    for needed in (
        "admiralty/fleets/support/prompts/triage.md",
        "admiralty/fleets/support/examples/triage.yaml",
        "admiralty/fleets/support/data/policy.md",
        "admiralty/fleets/support/data/orders.json",
        "admiralty/runtime/storage/migrations/env.py",
        "admiralty/runtime/storage/migrations/versions/0001_conversations.py",
    ):
        assert needed in held


_TRY = """
import asyncio, importlib.metadata, sys
from pathlib import Path
import admiralty.agents, admiralty.core, admiralty.evals, admiralty.memory, admiralty.runtime, admiralty.tools
from admiralty.fleets.support import fleet
from admiralty.runtime.storage import Database

async def main():
    database = Database(sys.argv[1])
    await database.close()
    async with fleet.local() as desk:
        answer = await desk.ask("What is your return policy?")
        assert answer.text, answer

asyncio.run(main())
print(Path(admiralty.agents.__file__).resolve())
print(importlib.metadata.version("admiralty"))
"""


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A new environment that sees what is installed in this one, but not Admiralty itself."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    # Only the folders: their own .pth files, with the editable install, are not read again.
    (packages / "present.pth").write_text("\n".join(sorted(here)) + "\n")
    return folder


@pytest.mark.requirement("packaging.install")
@pytest.mark.parametrize("way", ["wheel", "source"])
def test_it_is_installed_and_works_from_another_folder(
    way: str, source: Path, fresh: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    python = fresh / "bin" / "python"
    what = request.getfixturevalue("wheel") if way == "wheel" else source
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"),
        *("--no-build-isolation", "--ignore-installed", what),
        cwd=tmp_path,
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shown = run(
        *(python, "-c", _TRY, f"sqlite:///{elsewhere}/x.sqlite3"),
        cwd=elsewhere,
        ADMIRALTY_EMBEDDER="hashing",
    )
    file, version = shown.splitlines()[-2:]
    assert Path(file).is_relative_to(fresh)
    told = run(fresh / "bin" / "admiralty", "--version", cwd=elsewhere)
    assert version in told


@pytest.mark.requirement("packaging.layers")
def test_the_layers_import_only_downwards(root: Path, tmp_path: Path) -> None:
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    if not command.exists():
        reason = "import-linter is not installed: pip install 'admiralty[dev]'"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    namespace = tmp_path / "admiralty"
    namespace.mkdir()
    for folder in FOLDERS:
        (namespace / folder).symlink_to(root / folder)
    check = (command, "--no-cache", "--config", root / "pyproject.toml")
    assert "0 broken" in run(*check, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    # And it would tell: the same with an import upwards.
    (namespace / "core").unlink()
    shutil.copytree(root / "core", namespace / "core")
    (namespace / "core" / "ids.py").write_text("import admiralty.runtime.local\n")
    with pytest.raises(AssertionError, match=r"admiralty\.core is not allowed to import admiralty\.runtime"):
        run(*check, cwd=tmp_path, PYTHONPATH=str(tmp_path))
