"""Prompts are files: Markdown with an optional version in the front matter, known by their digest."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from admiralty.core.errors import DefinitionError


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """The text of a prompt, where it came from, and its digest."""

    text: str
    source: str
    """File name, or ``inline``."""
    version: str
    """``version`` of the front matter, else the first 8 digits of the digest."""
    digest: str
    """SHA-256 of the text, hexadecimal."""


def inline_prompt(text: str) -> Prompt:
    """Return a prompt from text that is no file."""
    return _prompt(text, "inline", None)


def _prompt(text: str, source: str, version: str | None) -> Prompt:
    # Of the text as models read it: white space around it makes no new version.
    text = text.strip()
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Prompt(text=text, source=source, version=version or digest[:8], digest=digest)


def load_prompt(path: Path, *, key: str) -> Prompt:
    """Read a prompt file; ``key`` names the definition in errors.

    Raises DefinitionError if the file is missing, empty, not UTF-8, or its front matter is no YAML mapping.
    """
    try:
        raw = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DefinitionError(
            key, str(path), "no such file", "Paths are relative to the file that defines the agent."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError(key, str(path), f"cannot be read: {error}", "Save it as UTF-8.") from error
    version, text = _split_front_matter(raw, path, key)
    if not text.strip():
        raise DefinitionError(key, str(path), "is empty", "Write what the agent is to do.")
    return _prompt(text, path.name, version)


def _split_front_matter(raw: str, path: Path, key: str) -> tuple[str | None, str]:
    if not raw.startswith("---\n"):
        return None, raw
    head, separator, text = raw[4:].partition("\n---\n")
    if not separator:
        raise DefinitionError(key, str(path), "front matter is not closed", "End it with a line '---'.")
    try:
        values = yaml.safe_load(head)
    except yaml.YAMLError as error:
        raise DefinitionError(key, str(path), f"front matter: {error}", "Write YAML.") from error
    if not isinstance(values, dict):
        raise DefinitionError(key, str(path), "front matter is no mapping", "Write 'version: 1'.")
    version = values.get("version")
    return (None if version is None else str(version)), text


def definition_directory(*, skip: str) -> Path:
    """Return the folder of the file that is defining something: relative paths are meant from there.

    Walks up the stack past dataclass machinery and the module named ``skip``; the working folder
    where the definition does not come from a file, as in a notebook.
    """
    machinery = {skip, __name__, "dataclasses", "copy"}
    frame = sys._getframe(1)
    while frame.f_back is not None:
        generated = frame.f_code.co_filename == "<string>" and frame.f_code.co_name == "__init__"
        if frame.f_globals.get("__name__") not in machinery and not generated:
            break
        frame = frame.f_back
    file = Path(frame.f_code.co_filename)
    return file.resolve().parent if file.is_file() else Path.cwd()
