"""Reads Google-style docstrings: the description, and the text for each parameter."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Example|Examples|Note):\s*$")
_PARAMETER = re.compile(r"^(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")


@dataclass(frozen=True, kw_only=True)
class Docstring:
    """A docstring taken apart."""

    description: str
    parameters: Mapping[str, str]


def parse_docstring(text: str | None) -> Docstring:
    """Return the description (all before the first section) and the ``Args:`` entries."""
    description: list[str] = []
    parameters: dict[str, str] = {}
    section, current = "", ""
    for line in inspect.cleandoc(text or "").splitlines():
        if header := _SECTION.match(line):
            section = header.group(1)
        elif not section:
            description.append(line)
        elif line and not line[0].isspace():
            section = "prose"  # after a section; its lines are no parameters
        elif section in ("Args", "Arguments", "Parameters"):
            entry = _PARAMETER.match(line.strip())
            if entry and len(line) - len(line.lstrip()) <= 4:
                current = entry.group(1)
                parameters[current] = entry.group(2)
            elif current:
                parameters[current] = f"{parameters[current]} {line.strip()}".strip()
    return Docstring(description="\n".join(description).strip(), parameters=parameters)
