"""Brings a database to the newest schema with Alembic; safe when several processes start at once."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from admiralty.core.errors import ConfigurationError

_LOCK = 0x41444D52  # "ADMR": the advisory lock that migrating processes take on PostgreSQL


def migrate(engine: Engine) -> None:
    """Apply every migration that the database lacks."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    with engine.connect() as connection, connection.begin():
        # On SQLite, BEGIN IMMEDIATE is the lock.
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        present = MigrationContext.configure(connection).get_current_revision()
        if present == head:
            return
        if present is not None and present not in {script.revision for script in scripts.walk_revisions()}:
            raise ConfigurationError(
                f"The database is of a newer Admiralty (schema {present}; this one knows {head}). "
                "Upgrade this installation, or name another database_url."
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
