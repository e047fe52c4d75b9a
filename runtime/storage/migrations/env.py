"""Alembic's entry: runs the migrations on the connection that ``migrate`` hands over."""

from alembic import context

from admiralty.runtime.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
