"""The shop's file: shared by processes, kept over restarts, and refused in words when it cannot be."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from admiralty.core.errors import ConfigurationError
from admiralty.fleets.support.shop import SQLiteStore, find_policy, open_shop
from admiralty.fleets.support.shop import rules as shop_rules
from admiralty.fleets.support.shop.source import SHIPPED
from admiralty.tools import ToolError

REPLICA = Path(__file__).with_name("replica.py")


def race(action: str, home: Path, order_ids: list[str], processes: int) -> list[dict[str, Any]]:
    """Start processes, let them go at once when all are ready, and return what each printed."""
    with ExitStack() as stack:
        running = []
        for _ in range(processes):
            process = subprocess.Popen(
                [sys.executable, str(REPLICA), action, str(home)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.kill)
            running.append(process)
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write(json.dumps(order_ids) + "\n")
            process.stdin.flush()
        return [json.loads(process.communicate(timeout=60)[0]) for process in running]


@pytest.mark.requirement("support.one_wins")
def test_of_two_processes_that_cancel_the_same_orders_at_once_one_wins_each(tmp_path: Path) -> None:
    shop = open_shop(None, tmp_path)
    orders = json.loads((SHIPPED / "orders.json").read_text())
    pending = [key for key, order in orders.items() if order["status"] == "pending"]
    results = race("cancel", tmp_path, pending, processes=2)
    for order_id in pending:
        statuses = sorted(result["outcomes"][order_id] for result in results)
        assert statuses == ["error", "ok"], order_id
    owed: Counter[tuple[str, str]] = Counter()
    for order_id in pending:
        (payment,) = orders[order_id]["payment_history"]
        owed[orders[order_id]["user_id"], payment["payment_method_id"]] += payment["amount"]
    users = json.loads((SHIPPED / "users.json").read_text())
    for (user_id, method_id), amount in owed.items():
        before = users[user_id]["payment_methods"][method_id]
        if before["source"] == "gift_card":
            user = shop.store.user(user_id)
            assert user is not None
            after = user["payment_methods"][method_id]["balance"]
            assert after == pytest.approx(before["balance"] + amount), "refunded once, not twice"


def test_processes_that_open_a_shop_at_once_seed_it_once(tmp_path: Path) -> None:
    results = race("open", tmp_path / "home", ["#W1001001"], processes=3)
    assert sorted(result["outcomes"]["#W1001001"] for result in results) == ["error", "error", "ok"]
    assert {result["products"] for result in results} == {18}
    assert len(list((tmp_path / "home").glob("*.sqlite3"))) == 1


def test_threads_that_change_one_profile_lose_none_of_their_changes(tmp_path: Path) -> None:
    store = open_shop(None, tmp_path).store

    def add_a_dollar() -> None:
        def decide(records: Any) -> shop_rules.Change:
            user = records.user("maya_chen_1001")
            card = user["payment_methods"]["gift_card_8993293"]
            methods = user["payment_methods"] | {card["id"]: card | {"balance": card["balance"] + 1}}
            return shop_rules.Change(users={"maya_chen_1001": user | {"payment_methods": methods}})

        for _round in range(10):
            store.change(decide)

    threads = [threading.Thread(target=add_a_dollar) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    user = store.user("maya_chen_1001")
    assert user is not None
    assert user["payment_methods"]["gift_card_8993293"]["balance"] == 100


@pytest.mark.requirement("support.survives")
def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    first = open_shop(None, tmp_path)
    order = first.desk(staff=True).cancel("#W1001001", "ordered by mistake")
    first.close()
    second = open_shop(None, tmp_path)
    assert second.store.order("#W1001001") == order
    assert set(second.store.changed()["orders"]) == {"#W1001001"}


def test_a_change_that_is_refused_halfway_leaves_nothing(tmp_path: Path) -> None:
    store = open_shop(None, tmp_path).store

    def decide(records: Any) -> shop_rules.Change:
        raise ToolError("no")

    with pytest.raises(ToolError, match="no"):
        store.change(decide)
    assert store.changed() == {}
    open_shop(None, tmp_path).desk(staff=True).cancel("#W1001001", "ordered by mistake")


def test_a_file_that_another_process_holds_too_long_is_reported_as_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("admiralty.fleets.support.shop.sqlite.BUSY_SECONDS", 0.05)
    shop = open_shop(None, tmp_path)
    (path,) = tmp_path.glob("*.sqlite3")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ToolError, match="busy at the moment"):
        shop.desk(staff=True).cancel("#W1001001", "ordered by mistake")
    other.execute("ROLLBACK")
    other.close()
    shop.desk(staff=True).cancel("#W1001001", "ordered by mistake")


@pytest.mark.requirement("support.data")
def test_changed_data_opens_a_fresh_shop_and_the_old_one_is_kept(tmp_path: Path) -> None:
    data, home = tmp_path / "data", tmp_path / "home"
    shutil.copytree(SHIPPED, data, ignore=shutil.ignore_patterns("policy.md"))
    shop = open_shop(data, home)
    assert shop.policy == find_policy(None)
    shop.desk(staff=True).cancel("#W1001001", "ordered by mistake")
    products = (data / "products.json").read_text()
    (data / "products.json").write_text(products.replace("Rain Jacket", "Storm Jacket"))
    (data / "policy.md").write_text("# Ours")
    changed = open_shop(data, home)
    assert changed.store.changed() == {}
    assert "Storm Jacket" in changed.desk().product_types()
    assert changed.policy == data / "policy.md"
    (data / "products.json").write_text(products)
    assert set(open_shop(data, home).store.changed()["orders"]) == {"#W1001001"}


def _without_status(orders: dict[str, Any]) -> None:
    del orders["#W1001001"]["status"]


def _of_nobody(orders: dict[str, Any]) -> None:
    orders["#W1001001"]["user_id"] = "nobody"


@pytest.mark.requirement("support.data")
@pytest.mark.parametrize(
    ("spoil", "said"), [(_without_status, "#W1001001.status: Field required"), (_of_nobody, "'nobody'")]
)
def test_data_that_does_not_hold_together_is_refused_naming_file_and_record(
    tmp_path: Path, spoil: Any, said: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(SHIPPED, data)
    orders = json.loads((data / "orders.json").read_text())
    spoil(orders)
    (data / "orders.json").write_text(json.dumps(orders))
    with pytest.raises(ConfigurationError) as refused:
        open_shop(data, tmp_path / "home")
    assert str(data / "orders.json") in refused.value.message
    assert said in refused.value.message
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe\x00", b'{"1": 2}', b"NaN"])
def test_a_file_that_is_no_shop_data_is_refused(tmp_path: Path, content: bytes) -> None:
    data = tmp_path / "data"
    shutil.copytree(SHIPPED, data)
    (data / "users.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"users\.json.* Mend the file"):
        open_shop(data, tmp_path / "home")


def test_a_missing_directory_or_file_is_refused_with_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere: not a directory .* Give a directory with users"):
        open_shop(tmp_path / "nowhere", tmp_path)
    with pytest.raises(ConfigurationError, match=r"users\.json: cannot be read .* Give a directory"):
        open_shop(tmp_path, tmp_path)


def test_a_home_that_cannot_hold_the_shop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="Give a home directory"):
        open_shop(None, tmp_path / "file")
    shop = open_shop(None, tmp_path)
    shop.close()
    (path,) = tmp_path.glob("*.sqlite3")
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(ConfigurationError, match=r"not usable as the shop's file .* Move it away"):
        open_shop(None, tmp_path)


def test_a_seeding_that_broke_off_is_begun_anew(tmp_path: Path) -> None:
    shop = open_shop(None, tmp_path / "first")
    shop.close()
    (path,) = (tmp_path / "first").glob("*.sqlite3")
    (tmp_path / "second").mkdir()
    sqlite3.connect(tmp_path / "second" / path.name).close()  # an empty file: created, never committed
    again = open_shop(None, tmp_path / "second")
    assert isinstance(again.store, SQLiteStore)
    assert len(again.store.products()) == 18
