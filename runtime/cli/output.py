"""What commands print with."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from admiralty.core.errors import AdmiraltyError

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def failure(error: AdmiraltyError) -> None:
    """Print an error for people: what is wrong, where, what to do."""
    errors.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
