"""``admiralty build``: write a fleet as a configuration for ``serve deploy``."""

from __future__ import annotations

import sys
from pathlib import Path

from admiralty.core.errors import ConfigurationError
from admiralty.core.settings import Settings
from admiralty.runtime.cli.output import console
from admiralty.runtime.serve.config import render, serve_config


def run_build(
    fleet_name: str, settings: Settings, *, output: Path | None, name: str, route_prefix: str
) -> None:
    """Write the configuration to ``output``, else to standard output."""
    text = render(serve_config(fleet_name, settings, name=name, route_prefix=route_prefix))
    if output is None:
        sys.stdout.write(text)  # as it is: it may go through a pipe
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise ConfigurationError(f"output = {str(output)!r}: {error.strerror}.") from error
    console.print(f"Wrote {output}. Deploy it: serve deploy {output}", soft_wrap=True, markup=False)
