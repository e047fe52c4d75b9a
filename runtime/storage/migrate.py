"""Brings a database to the newest schema with Alembic; safe when several processes start at once."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from admiralty.core.errors import ConfigurationError

_SCRIPTS = Path(__file__).parent / "migrations"

_LOCK = 0x41444D52  # "ADMR": the advisory lock that migrating processes take on PostgreSQL


def migrate(engine: Engine) -> None:
    """Apply every migration that the database lacks."""
    if _is_newest(engine):  # the usual case, in every process: without the imports below
        return
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
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


def _is_newest(engine: Engine) -> bool:
    """Tell by one query whether there is nothing to do; migrations' files are named by their revision."""
    newest = max(path.name.partition("_")[0] for path in (_SCRIPTS / "versions").glob("[0-9]*_*.py"))
    try:
        with engine.execution_options(immediate=False).connect() as connection:
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
    except DBAPIError:  # no such table, or something worse, which the long way meets again
        return False
    return found == [newest]
