"""What was spent, by whatever it is grouped by: exact, and each tenant's own."""

from __future__ import annotations

import pytest

from admiralty.core.errors import InvalidRequest
from admiralty.core.money import Nanos
from admiralty.core.values import Usage
from admiralty.runtime.ledger.periods import iso, parse_length, parse_moment
from admiralty.runtime.ledger.reports import Reports, Spend
from admiralty.runtime.ledger.viewer import Viewer
from admiralty.runtime.storage import Database

from .conftest import NOON, caller, entry, put_entries, tool_entry


@pytest.fixture
def reports(database: Database) -> Reports:
    return Reports(database)


def costs(spend: Spend) -> dict[object, int]:
    """Return the cost of each group; a group of one is named by itself."""
    return {line.groups[0] if len(line.groups) == 1 else line.groups: line.cost for line in spend.lines}


@pytest.mark.requirement("storage.usage")
async def test_a_conversations_cost_is_summed_by_agent_tier_model_and_tool(
    reports: Reports, database: Database
) -> None:
    one = Usage(input_tokens=10, output_tokens=2, cached_tokens=3, reasoning_tokens=1)
    await put_entries(
        database,
        [
            entry(1, 2**40, usage=one),
            entry(2, None, status="cancelled", error="no \ud800 good \x00", usage=Usage()),
            entry(3, model="openai:y", usage=one),
            entry(4, 2**40, usage=one),
            entry(5, -24, kind="correction", corrects="call_000001", usage=Usage()),
            entry(6, None, status="error", usage=Usage()),
            tool_entry(7),
            tool_entry(8),
            entry(9, caller=caller(conversation_id="conv_2")),
        ],
    )
    tool, x, y = await reports.by_conversation("conv_1")
    assert (tool.tool, tool.model, tool.calls, tool.cost) == ("lookup", "", 2, 1000)
    assert (x.agent, x.tier, x.model, x.tool) == ("clerk", "small", "openai:gpt-5.4-nano", "")
    assert (x.calls, x.unpriced_calls, x.cost) == (4, 1, 2 * 2**40 - 24)
    assert x.usage == Usage(input_tokens=20, output_tokens=4, cached_tokens=6, reasoning_tokens=2)
    assert (y.calls, y.usage) == (1, one)
    assert await reports.by_conversation("conv_3") == []
    assert sum(line.calls for line in await reports.totals()) == 8


@pytest.mark.requirement("money.spend")
async def test_spending_is_grouped_by_anything_that_an_entry_says(
    reports: Reports, database: Database
) -> None:
    await put_entries(
        database,
        [
            entry(1, 10, caller=caller(tags={"project": "alpha", "cost.center/x": "7"})),
            entry(2, 20, caller=caller(user=None, tags={"project": "beta"}), status="error"),
            entry(3, 40, caller=caller(team="red", tags={})),
            tool_entry(4, 80),
        ],
    )
    assert costs(await reports.spend(["tag:project"])) == {"alpha": 90, None: 40, "beta": 20}
    assert costs(await reports.spend(["tag:cost.center/x"])) == {None: 140, "7": 10}
    assert costs(await reports.spend(["team", "tool"])) == {
        ("blue", "lookup"): 80,
        ("red", ""): 40,
        ("blue", ""): 30,
    }
    assert costs(await reports.spend(["user"])) == {"ann": 130, None: 20}
    for name in ("tenant", "fleet", "agent", "agent_version", "conversation", "run", "tier", "model"):
        assert sum(costs(await reports.spend([name])).values()) == 150
    assert costs(await reports.spend(["kind"])) == {"tool": 80, "model": 70}
    assert costs(await reports.spend(["status"])) == {"ok": 130, "error": 20}
    plain = await reports.spend()
    assert [line.cost for line in plain.lines] == [150] == [plain.total.cost]


@pytest.mark.requirement("money.spend")
async def test_spending_is_split_by_hours_days_and_months_of_utc(
    reports: Reports, database: Database
) -> None:
    midnight = NOON + 12 * 3600
    moments = [NOON, NOON + 3599.9999, NOON + 3600, midnight - 0.0001, midnight, NOON + 9 * 86400]
    await put_entries(
        database, [entry(number, 10**number, at=moment) for number, moment in enumerate(moments)]
    )

    async def split(interval: str) -> dict[str | None, int]:
        return {line.period: line.cost for line in (await reports.spend(interval=interval)).lines}  # type: ignore[arg-type]

    assert await split("hour") == {
        "2026-11-22T12:00:00Z": 11,
        "2026-11-22T13:00:00Z": 100,
        "2026-11-22T23:00:00Z": 1000,
        "2026-11-23T00:00:00Z": 10000,
        "2026-12-01T12:00:00Z": 100000,
    }
    assert await split("day") == {"2026-11-22": 1111, "2026-11-23": 10000, "2026-12-01": 100000}
    assert await split("month") == {"2026-11": 11111, "2026-12": 100000}
    part = await reports.spend(["agent"], since=NOON + 3600, until=midnight, interval="day")
    assert [(line.period, line.groups, line.cost) for line in part.lines] == [
        ("2026-11-22", ("clerk",), 1100)
    ]


@pytest.mark.requirement("money.spend")
async def test_sums_beyond_what_a_float_can_hold_are_exact(reports: Reports, database: Database) -> None:
    await put_entries(
        database, [entry(1, 2**61), entry(2, 2**61), entry(3, 1), entry(4, -2, kind="correction")]
    )
    spend = await reports.spend(["model"])
    assert spend.lines[0].cost == spend.total.cost == Nanos(2**62 - 1)
    assert spend.total.calls == 3


@pytest.mark.requirement("money.spend")
async def test_a_tenant_sees_its_own_spending_and_a_team_its_own(
    reports: Reports, database: Database
) -> None:
    await put_entries(
        database,
        [
            entry(1, 1),
            entry(2, 20, caller=caller(team="red")),
            entry(3, 300, caller=caller(tenant="rival")),
        ],
    )
    assert costs(await reports.spend(["tenant"])) == {"rival": 300, "acme": 21}
    assert costs(await reports.spend(["tenant"], viewer=Viewer(tenant="acme"))) == {"acme": 21}
    assert costs(await reports.spend(["team"], viewer=Viewer(tenant="acme", team="red"))) == {"red": 20}
    assert costs(await reports.spend(["team"], viewer=Viewer(tenant="rival", team="red"))) == {}


@pytest.mark.requirement("money.spend")
async def test_a_long_report_is_cut_off_and_says_so_but_its_total_is_whole(
    reports: Reports, database: Database
) -> None:
    await put_entries(
        database, [entry(n, n, caller=caller(user=f"u{n}"), estimated=n == 3) for n in range(5)]
    )
    spend = await reports.spend(["user"], limit=2)
    assert costs(spend) == {"u4": 4, "u3": 3}
    assert spend.truncated
    assert (spend.total.cost, spend.total.calls, spend.total.estimated) == (10, 5, 3)
    assert not (await reports.spend(["user"], limit=5)).truncated


@pytest.mark.requirement("money.spend")
@pytest.mark.parametrize(
    "group", [["planet"], ["tag:"], ["tag:a b"], ["error"], ["tag:x' OR 1=1"], ['tag:x"]'], list("abcdefg")]
)
async def test_what_cannot_be_grouped_by_is_refused(sqlite_url: str, group: list[str]) -> None:
    database = Database(sqlite_url)
    try:
        with pytest.raises(InvalidRequest):
            await Reports(database).spend(group)
    finally:
        await database.close()


@pytest.mark.requirement("money.spend")
def test_moments_are_understood_as_people_write_them() -> None:
    for text, moment in (
        ("7d", NOON - 7 * 86400),
        ("1.5h", NOON - 5400),
        ("2026-11-22", NOON - 12 * 3600),
        ("2026-11-22T13:00+01:00", NOON),
        ("2026-11-22T12:00Z", NOON),
        ("1795348800", NOON),
    ):
        assert parse_moment(text, NOON, "since") == moment
    assert parse_length("2w") == 14 * 86400
    assert parse_length("month") is None
    assert iso(NOON + 0.25) == "2026-11-22T12:00:00.250000Z"
    for text in ("yesterday", "", "nan", "1e400", "-7d", "2026-13-01", "99999999999999"):
        with pytest.raises(InvalidRequest, match="since"):
            parse_moment(text, NOON, "since")
