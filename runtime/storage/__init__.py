"""SQL, the truth: tables, migrations, one group-committing writer, and the stores on top of it.

SQLite by default, PostgreSQL by URL. Nothing here knows HTTP, Ray or LangGraph.
"""

from admiralty.runtime.storage.database import Database

__all__ = ["Database"]
