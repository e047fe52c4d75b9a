from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    """A prompt with front matter."""
    path = tmp_path / "clerk.md"
    path.write_text("---\nversion: 3\n---\n\nYou are a clerk.\n", encoding="utf-8")
    return path
