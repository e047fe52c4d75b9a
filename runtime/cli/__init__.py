"""The command line: ``admiralty``."""

from admiralty.runtime.cli.main import main

__all__ = ["main"]
