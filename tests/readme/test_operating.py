"""The table of settings in docs/operating.md is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from admiralty.core.settings import Settings


@pytest.mark.requirement("docs.settings")
def test_every_setting_is_described_with_its_default(root: Path) -> None:
    text = (root / "docs" / "operating.md").read_text()
    rows = dict(re.findall(r"^\| `ADMIRALTY_(\w+)` \| ([^|]*) \|", text, re.MULTILINE))
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = rows[name.upper()].strip().strip("`")
        if default is None or default == {}:
            assert shown == "not set", name
        else:
            assert shown == str(default).lower() if isinstance(default, bool) else str(default), name
