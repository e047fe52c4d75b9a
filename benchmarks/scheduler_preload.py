"""Fills a database with a past: many entries in the ledger and many budgets, by SQL alone."""

import asyncio
from functools import partial
from typing import Final

import psycopg
import sqlalchemy as sa

from admiralty.runtime.storage import Database

MONTH_SECONDS: Final = 30 * 86_400

_ENTRIES: Final = """
INSERT INTO ledger (id, kind, call_id, tenant, team, "user", tags, fleet, agent, agent_version,
    conversation_id, run_id, model, tier, tool, status, input_tokens, output_tokens, cost_nanos, held_nanos,
    estimated, measure, expected_input, output_limit, price_book, policy, charges, seconds, at)
SELECT {id}, 'model', {id}, 'acme', 'team1', 'person' || (i % 5000), '{{}}', 'desk', 'lookup', 'v1',
    'past' || (i % 100000), 'run' || i, 'openai:mock', 'small', '', 'ok', 110, 13, 240000, 1110000,
    {false}, 450, 110, 100, 'past', 'past', '[]', 0.5, {now} - {month} + i * ({month} * 1.0 / {rows})
FROM n
"""

_BUDGETS: Final = """
INSERT INTO budgets (id, scope, tenant, name, limit_nanos, "window", timezone, hard, thresholds, created_at,
    updated_at)
SELECT 'budget_past' || i, 'user:acme/person' || i, 'acme', '', 1000000000000, 'total', 'UTC', {true},
    '[0.5, 0.8, 1.0]', {now}, {now}
FROM n
"""

_COUNTERS: Final = """
INSERT INTO counters (budget_id, subject, "window", spent, held, unproven)
SELECT 'budget_past' || i, '', 'total', 1000000, 0, 0 FROM n
"""

_NUMBERS: Final = {
    True: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})",
    False: "WITH n(i) AS (SELECT generate_series(1, {count}))",
}


async def preload(database: Database, *, rows: int, budgets: int) -> None:
    """Write ``rows`` entries of the last month, and ``budgets`` budgets of other users, with counters."""
    words = {
        "id": "printf('call_%032x', i)" if database.is_sqlite else "'call_' || lpad(to_hex(i), 32, '0')",
        "now": "CAST(strftime('%s', 'now') AS REAL)" if database.is_sqlite else "extract(epoch FROM now())",
        "true": "1" if database.is_sqlite else "true",
        "false": "0" if database.is_sqlite else "false",
        "month": str(MONTH_SECONDS),
        "rows": str(rows),
    }
    for statement, count in ((_ENTRIES, rows), (_BUDGETS, budgets), (_COUNTERS, budgets)):
        numbers = _NUMBERS[database.is_sqlite].format(count=count)
        await database.write(partial(_execute, f"{numbers} {statement.format(**words)}"))
    if not database.is_sqlite:
        await asyncio.to_thread(_analyze, database)


def _execute(text: str, connection: sa.Connection) -> None:
    connection.execute(sa.text(text))


def _analyze(database: Database) -> None:
    """Do what autovacuum would do soon, in the middle of a measurement."""
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
