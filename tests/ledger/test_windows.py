"""Windows of budgets: calendar days that are not 24 hours long, and windows that roll."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admiralty.core.errors import InvalidRequest
from admiralty.core.money import Nanos
from admiralty.runtime.ledger.values import Budget, Window
from admiralty.runtime.ledger.windows import (
    BUCKETS,
    frees_at,
    oldest_bucket,
    resets_at,
    rolling_bucket,
    window_key,
    zone,
)

# Changes of summer time at midnight, by half an hour, at 2 am, and none at all.
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Africa/Cairo", "America/Havana", "Asia/Beirut",
         "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kolkata", "Pacific/Apia"]  # fmt: skip
MOMENTS = st.floats(dt.datetime(2008, 1, 1, tzinfo=dt.UTC).timestamp(), 2_500_000_000)
CALENDAR = st.sampled_from(["day", "week", "month"])


def budget(window: Window, timezone: str = "UTC", seconds: float | None = None) -> Budget:
    return Budget(id="b", scope="tenant:t", limit=Nanos(1), window=window, timezone=timezone, seconds=seconds)


def at(text: str, timezone: str = "UTC") -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone)).timestamp()


@pytest.mark.requirement("money.windows")
@pytest.mark.parametrize(
    ("window", "moment", "timezone", "key", "until"),
    [
        ("total", "2026-11-22 12:00", "UTC", "total", None),
        ("day", "2026-11-22 23:30", "UTC", "2026-11-22", "2026-11-23"),
        ("day", "2026-11-22 23:30", "Europe/Berlin", "2026-11-22", "2026-11-23"),
        ("week", "2026-11-22 23:30", "UTC", "2026-W47", "2026-11-23"),
        ("week", "2027-01-01 00:00", "UTC", "2026-W53", "2027-01-04"),
        ("month", "2026-11-30 23:30", "UTC", "2026-11", "2026-12-01"),
        ("month", "2026-12-31 23:30", "America/New_York", "2026-12", "2027-01-01"),
        ("month", "2028-02-29 12:00", "Asia/Kolkata", "2028-02", "2028-03-01"),
    ],
)
def test_a_moment_falls_into_the_window_of_its_calendar(
    window: Window, moment: str, timezone: str, key: str, until: str | None
) -> None:
    of = budget(window, timezone)
    assert window_key(of, at(moment, timezone)) == key
    assert resets_at(of, at(moment, timezone)) == (None if until is None else at(until, timezone))


@pytest.mark.requirement("money.windows")
@pytest.mark.parametrize(
    ("timezone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Africa/Cairo", "2026-04-24", 23),  # its clocks skip midnight itself
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("Pacific/Apia", "2011-12-29", 24),  # the 30th was skipped whole
    ],
)
def test_a_day_is_as_long_as_its_clocks_say(timezone: str, day: str, hours: float) -> None:
    of = budget("day", timezone)
    reset = resets_at(of, at(f"{day} 12:00", timezone))
    assert reset is not None
    yesterday = at(f"{day} 00:00", timezone) - 1
    began = resets_at(of, yesterday)
    assert began is not None
    assert reset - began == hours * 3600
    assert window_key(of, reset - 0.01) == day


@pytest.mark.requirement("money.windows")
@settings(max_examples=300, deadline=None)
@given(window=CALENDAR, timezone=st.sampled_from(ZONES), now=MOMENTS)
def test_a_window_lasts_until_it_resets_and_no_longer(window: Window, timezone: str, now: float) -> None:
    of = budget(window, timezone)
    reset = resets_at(of, now)
    assert reset is not None
    assert reset > now
    assert window_key(of, (now + reset) / 2) == window_key(of, now)
    assert window_key(of, reset - 0.001) == window_key(of, now)
    assert window_key(of, reset) > window_key(of, now)


@pytest.mark.requirement("money.windows")
@settings(max_examples=300, deadline=None)
@given(seconds=st.floats(60, 366 * 86400), now=MOMENTS, age=st.floats(0, 2))
def test_what_is_younger_than_a_rolling_window_always_counts(seconds: float, now: float, age: float) -> None:
    of = budget("rolling", seconds=seconds)
    spent_at = now - age * seconds
    bucket = rolling_bucket(of, spent_at)
    counts = bucket >= oldest_bucket(of, now)
    if age < 0.999:
        assert counts
    if age > 1 + 1.1 / BUCKETS:
        assert not counts
    assert frees_at(of, bucket) > spent_at + seconds * 0.999
    assert bucket < oldest_bucket(of, frees_at(of, bucket) + 0.01)
    assert bucket >= oldest_bucket(of, frees_at(of, bucket) - 0.01)
    assert rolling_bucket(of, now) == window_key(of, now)
    assert len(bucket) == len(rolling_bucket(of, now))


@pytest.mark.requirement("money.windows")
def test_a_rolling_window_has_few_buckets_and_says_when_all_of_it_is_over() -> None:
    of = budget("rolling", seconds=3600)
    now = at("2026-11-22 12:00:30")
    assert rolling_bucket(of, now) == f"{int(at('2026-11-22 12:00')) * 1000:014d}"
    assert oldest_bucket(of, now) == f"{int(at('2026-11-22 11:00')) * 1000:014d}"
    assert resets_at(of, now) == at("2026-11-22 13:01")


@pytest.mark.requirement("money.windows")
@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "/etc/passwd", "../UTC", "Europe", "x\0y", "ü" * 300])
def test_an_unknown_time_zone_is_refused_with_a_remedy(name: str) -> None:
    with pytest.raises(InvalidRequest, match="Europe/Berlin"):
        zone(name)
