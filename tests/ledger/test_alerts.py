"""Alerts: each threshold once, each webhook until it is taken or given up, no webhook to our own network."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from admiralty.core.errors import InvalidRequest
from admiralty.core.money import Nanos
from admiralty.runtime.ledger import webhooks
from admiralty.runtime.ledger.alerts import Alert, alert_rows, crossed, insert_alerts, record_alerts
from admiralty.runtime.ledger.batch import SpentChange
from admiralty.runtime.ledger.delivery import (
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    MAX_DELAY_SECONDS,
    AlertDeliverer,
    next_delay,
)
from admiralty.runtime.ledger.values import Budget, Charge
from admiralty.runtime.ledger.webhooks import WebhookFailed, checked_webhook
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.tables import alerts

from .conftest import NOON, HandClock, put_budget


def limited(limit: int, thresholds: Sequence[float] = (0.5, 0.8, 1.0), **values: Any) -> Budget:
    return Budget(id="budget_1", scope="tenant:acme", limit=Nanos(limit), thresholds=thresholds, **values)


# -- which thresholds -----------------------------------------------------------------------------


@pytest.mark.requirement("money.alerts")
def test_a_threshold_is_passed_by_the_spending_that_reaches_it() -> None:
    budget = limited(1000)
    assert crossed(budget, 0, 499) == ()
    assert crossed(budget, 499, 500) == (0.5,)
    assert crossed(budget, 500, 799) == ()
    assert crossed(budget, 499, 5000) == (0.5, 0.8, 1.0)
    assert crossed(budget, 900, 400) == ()
    assert crossed(limited(0, (1.0,)), 0, 1) == (1.0,)
    assert crossed(limited(7, (0.8,)), 5, 6) == (0.8,)  # 5.6: not before 6


@pytest.mark.requirement("money.alerts")
@given(
    limit=st.integers(0, 10**18),
    steps=st.lists(st.integers(0, 10**17), max_size=30),
    thresholds=st.lists(st.floats(0.001, 10), max_size=5, unique=True),
)
def test_spending_in_any_steps_passes_each_threshold_once(
    limit: int, steps: list[int], thresholds: list[float]
) -> None:
    budget, spent = limited(limit, tuple(thresholds)), 0
    seen: list[float] = []
    for step in steps:
        seen += crossed(budget, spent, spent + step)
        spent += step
    assert sorted(seen) == sorted(crossed(budget, 0, spent))
    assert len(seen) == len(set(seen))


# -- rows -----------------------------------------------------------------------------------------


async def rows_of(database: Database) -> list[dict[str, Any]]:
    query = sa.select(alerts).order_by(alerts.c.window, alerts.c.threshold, alerts.c.limit_nanos)
    return await database.read(lambda connection: [dict(row) for row in connection.execute(query).mappings()])


def change(budget: Budget, before: int, after: int, subject: str = "") -> SpentChange:
    return SpentChange(
        budget=budget, charge=Charge(budget.id, subject, "2026-11"), before=before, after=after
    )


@pytest.mark.requirement("money.alerts")
async def test_an_alert_is_one_row_however_often_and_by_however_many_it_is_seen(database: Database) -> None:
    budget = limited(1000, window="month")
    changes = [change(budget, 0, 600), change(budget, 100, 900), change(budget, 0, 600, "user:acme/ann")]
    await asyncio.gather(
        *(database.write(lambda connection: record_alerts(connection, changes, NOON)) for _ in range(8))
    )
    found = await rows_of(database)
    assert [(row["subject"], row["window"], row["threshold"]) for row in found if row["subject"] == ""] == [
        ("", "2026-11", 0.5),
        ("", "2026-11", 0.8),
    ]
    assert len(found) == 3
    next_month = NOON + 30 * 86400
    await database.write(lambda connection: record_alerts(connection, changes[:1], next_month))
    assert [row["window"] for row in await rows_of(database)].count("2026-12") == 1


@pytest.mark.requirement("money.alerts")
async def test_a_changed_limit_alerts_anew(database: Database) -> None:
    for limit in (1000, 2000, 1000):
        row = alert_rows(limited(limit, (0.5,), window="total"), "", 0, 1000, NOON)
        await database.write(lambda connection, rows=row: insert_alerts(connection, rows))  # type: ignore[misc]
    assert [row["limit_nanos"] for row in await rows_of(database)] == [1000, 2000]


@pytest.mark.requirement("money.alerts")
async def test_spending_that_swings_around_a_rolling_threshold_alerts_once_in_the_window(
    database: Database,
) -> None:
    budget = limited(1000, (0.5,), window="rolling", seconds=3600.0)
    for minute in range(0, 60, 5):
        moment = NOON + 60 * minute
        rows = alert_rows(budget, "", 400, 600, moment)
        await database.write(lambda connection, rows=rows: insert_alerts(connection, rows))  # type: ignore[misc]
    assert len(await rows_of(database)) == 1


@pytest.mark.requirement("money.alerts")
async def test_many_alerts_are_written_at_once(database: Database) -> None:
    budget = limited(1000, (0.5,), window="total")
    rows = [row for number in range(250) for row in alert_rows(budget, f"user:acme/{number}", 0, 500, NOON)]
    await database.write(lambda connection: insert_alerts(connection, rows))
    assert len(await rows_of(database)) == 250


# -- delivery -------------------------------------------------------------------------------------


@dataclass
class Receiver:
    """A real HTTP server that takes webhooks, and answers as it is told."""

    url: str = ""
    status: int = 204
    received: list[tuple[dict[str, str], Any]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.received.append((dict(self.headers), json.loads(body)))
            self.send_response(state.status)
            if state.status == 302:
                self.send_header("Location", state.url + "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/hook?a=b"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join(5)


async def one_alert(database: Database, webhook: str | None, **values: Any) -> Budget:
    budget = await put_budget(database, webhook=webhook, name="Acme", limit=Nanos(10**10), **values)
    await database.write(lambda connection: record_alerts(connection, [change(budget, 0, 6 * 10**9)], NOON))
    return budget


@pytest.mark.requirement("money.alerts")
async def test_several_deliverers_deliver_once_and_say_it_once(
    database: Database, clock: HandClock, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    await one_alert(database, receiver.url)
    heard: list[Alert] = []
    several = [
        AlertDeliverer(database, clock, allow_private=True, on_alert=lambda alert, _: heard.append(alert))
        for _ in range(4)
    ]
    with caplog.at_level(logging.INFO):
        sent = await asyncio.gather(*(one.deliver_due() for one in several))
    assert sorted(sent) == [0, 0, 0, 1]
    assert await several[0].deliver_due() == 0
    ((headers, body),) = receiver.received
    (row,) = await rows_of(database)
    assert headers["Idempotency-Key"] == row["id"] == body["id"]
    assert headers["Host"] == receiver.url.split("/")[2]
    assert body["budget"] | {"id": ""} == {
        "id": "", "name": "Acme", "scope": "tenant:acme", "window": "month", "hard": True
    }  # fmt: skip
    assert (body["threshold"], body["spent_usd"], body["limit_usd"]) == (0.5, "6", "10")
    assert body["window"] == "2026-11"
    assert row["delivered_at"] == NOON
    assert row["next_attempt_at"] is None
    assert [alert.id for alert in heard] == [row["id"]]
    assert sum("passing 50%" in line for line in caplog.messages) == 1
    for one in several:
        await one.close()


@pytest.mark.requirement("money.alerts")
async def test_a_started_deliverer_delivers_when_it_is_woken(
    database: Database, clock: HandClock, receiver: Receiver
) -> None:
    heard = asyncio.Event()
    deliverer = AlertDeliverer(
        database, clock, allow_private=True, on_alert=lambda *_: heard.set(), poll=60.0
    )
    await deliverer.start()
    try:
        await one_alert(database, None)
        deliverer.wake()
        await asyncio.wait_for(heard.wait(), 10)
    finally:
        await deliverer.close()
    assert receiver.received == []


@pytest.mark.requirement("money.alerts")
async def test_a_webhook_that_fails_is_tried_again_with_the_same_key_then_given_up(
    database: Database, clock: HandClock, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    await one_alert(database, receiver.url)
    receiver.status = 500
    heard: list[Alert] = []
    deliverer = AlertDeliverer(
        database, clock, allow_private=True, on_alert=lambda alert, _: heard.append(alert)
    )
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert await deliverer.deliver_due() == 1
        assert await deliverer.deliver_due() == 0
        (row,) = await rows_of(database)
        assert row["attempts"] == attempt
        assert row["error"] == "HTTP status 500"
        clock.time += 2 * MAX_DELAY_SECONDS
    assert row["next_attempt_at"] is None
    assert row["delivered_at"] is None
    assert await deliverer.deliver_due() == 0
    assert len(receiver.received) == MAX_ATTEMPTS
    assert len({headers["Idempotency-Key"] for headers, _ in receiver.received}) == 1
    assert len(heard) == 1
    assert any("given up" in line for line in caplog.messages)
    await deliverer.close()


@pytest.mark.requirement("money.alerts")
async def test_an_alert_whose_deliverer_died_is_delivered_by_another(
    database: Database, clock: HandClock, receiver: Receiver
) -> None:
    await one_alert(database, receiver.url)
    taken = alerts.update().values(attempts=1, next_attempt_at=NOON + LEASE_SECONDS)  # and then kill -9
    await database.write(lambda connection: connection.execute(taken) and None)
    deliverer = AlertDeliverer(database, clock, allow_private=True)
    assert await deliverer.deliver_due() == 0
    clock.time += LEASE_SECONDS
    assert await deliverer.deliver_due() == 1
    assert len(receiver.received) == 1
    await deliverer.close()


@pytest.mark.requirement("money.alerts")
async def test_redirects_are_not_followed(database: Database, clock: HandClock, receiver: Receiver) -> None:
    await one_alert(database, receiver.url)
    receiver.status = 302
    deliverer = AlertDeliverer(database, clock, allow_private=True)
    await deliverer.deliver_due()
    assert len(receiver.received) == 1
    assert (await rows_of(database))[0]["error"] == "HTTP status 302"
    await deliverer.close()


def test_delays_grow_up_to_a_bound_and_end() -> None:
    delays = [next_delay(attempts) for attempts in range(1, MAX_ATTEMPTS)]
    assert delays == sorted(delays, key=lambda delay: delay or 0)
    assert delays[-1] == MAX_DELAY_SECONDS
    assert next_delay(MAX_ATTEMPTS) is None


# -- where webhooks may go ------------------------------------------------------------------------


@pytest.mark.requirement("money.webhooks")
@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/x", "example.com/hook", "http://", "https://user:pw@example.com/", "http://[x",
        "http://localhost/", "http://LOCALHOST./", "http://a.localhost:80/", "http://db.internal/",
        "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0/",
        "http://10.0.0.1/", "http://192.168.1.1/", "http://169.254.169.254/latest", "http://100.64.0.1/",
        "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[fe80::1]/", "http://[fd00::1]/",
        "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://224.0.0.1/", "javascript:alert(1)",
        "https://example.com/" + "x" * 2000,
    ],
)  # fmt: skip
def test_a_webhook_into_our_own_network_or_none_at_all_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checked_webhook(url)
    assert refused.value.details["param"] == "webhook"


@pytest.mark.requirement("money.webhooks")
def test_a_webhook_on_the_internet_is_taken_and_a_private_one_where_it_is_permitted() -> None:
    for url in ("https://hooks.example.com/a?b=c", "http://93.184.216.34:8080/", "http://[2606:4700::1111]/"):
        assert checked_webhook(url) == url
    assert checked_webhook("http://10.0.0.1/x", allow_private=True)


@pytest.mark.requirement("money.webhooks")
async def test_a_public_name_that_leads_into_our_network_is_not_asked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    async def lookup(host: str, *_: Any, **__: Any) -> list[Any]:
        looked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    url = receiver.url.replace("127.0.0.1", "hooks.example.com")
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(WebhookFailed, match="inside the operator's network"):
            await webhooks.post(client, url, b"{}", {}, allow_private=False)
        assert receiver.received == []
        # The address that was looked up is the one that is asked, under the name that it has.
        await webhooks.post(client, url, b"{}", {}, allow_private=True)
    assert looked == ["hooks.example.com"] * 2
    assert receiver.received[0][0]["Host"].startswith("hooks.example.com:")
