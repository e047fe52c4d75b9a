"""``admiralty demo``: the support fleet started, talked to, and its trace and cost shown."""

from __future__ import annotations

import sys
import time
from typing import Any

import httpx
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from admiralty.core.errors import ConfigurationError
from admiralty.core.settings import Settings
from admiralty.runtime.cli.chat import Talk
from admiralty.runtime.cli.keys import with_keys
from admiralty.runtime.cli.output import console
from admiralty.runtime.cli.up import Stop, run_up
from admiralty.runtime.composition.fleet import data_folder
from admiralty.runtime.serve import environment
from admiralty.runtime.serve.cluster import UpRecord

CONVERSATION = (
    "Hi, I'm Maya Chen, maya.chen@example.com. What is the status of my order #W1001001?",
    "Can I send back something that was already delivered, and where does the refund go?",
    "Please cancel order #W1001001, I no longer need it.",
    "Yes, please go ahead.",
)


def run_demo(settings: Settings) -> None:
    """Hold the demonstration; at a terminal, leave the fleet running until Ctrl-C."""
    began = time.monotonic()
    data_folder(settings)
    port = _port(settings.host, settings.port)
    dashboard = _port("127.0.0.1", settings.dashboard_port)
    settings = settings.model_copy(update={"port": port, "dashboard_port": dashboard})
    secret, _ = with_keys(settings, lambda keys: keys.create(name="demo"))
    failures: list[BaseException] = []

    def when_up(record: UpRecord, stop: Stop) -> None:
        try:
            _show(settings, record, secret, began)
        except BaseException as error:
            failures.append(error)
            stop.request()
        if not (sys.stdin.isatty() and console.is_terminal):
            stop.request()

    console.rule("[bold]1. The fleet starts")
    # The home is the demo's own (see main.py): every demonstration begins with an untouched shop.
    run_up("fleets.support", settings, address=None, beside=True, fresh=True, when_up=when_up)
    if failures:
        raise failures[0]


def _show(settings: Settings, record: UpRecord, secret: str, began: float) -> None:
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=record.url, headers=headers, timeout=180) as client:
        _converse(client, began)
    console.rule("[bold]4. How to go on")
    _how_to_go_on(settings, record.url, secret)
    if sys.stdin.isatty() and console.is_terminal:
        console.print("\nThe fleet keeps running. Ctrl-C drains and stops it.")


def _port(host: str, wanted: int) -> int:
    try:
        environment.check_port(host, wanted, flag="--port", what="The demo")
    except ConfigurationError:
        return environment.free_port()
    return wanted


def _converse(client: httpx.Client, began: float) -> None:
    console.rule("[bold]2. A conversation")
    talk = Talk(client, agent=None, quiet=False)
    talk.begin(None)
    for number, message in enumerate(CONVERSATION):
        console.print(f"\n[bold cyan]you ›[/] {escape(message)}", soft_wrap=True)
        talk.say(message)
        if number == 0:
            console.print(
                f"[dim]  first answer {time.monotonic() - began:.1f} s after the start of the demo[/]"
            )
    console.rule("[bold]3. Its trace and its cost")
    view = client.get(f"/v1/conversations/{talk.conversation}").json()
    console.print(trace(view))
    console.print(cost_table(view))


def trace(view: dict[str, Any]) -> Tree:
    """Return what happened in a conversation as a tree: turns, steps, tools, handoffs."""
    tree = Tree(f"[bold]{view['id']}[/]")
    said = {message["turn"]: message["content"] for message in view["messages"] if message["role"] == "user"}
    for run in view["runs"]:
        text = escape(said.get(run["turn"], "")[:70])
        state = f"{run['status']}, {(run['seconds'] or 0) * 1000:.0f} ms"
        turn = tree.add(f"turn {run['turn']} [dim]{state}[/]  {text}")
        node = turn
        happened = [*view["steps"], *view["tools"], *view["handoffs"]]
        for item in sorted(happened, key=lambda item: int(item["seq"])):
            if item["run_id"] != run["id"]:
                continue
            if "target" in item:
                node.add(f"→ {item['target']}")
            elif "step" in item:
                node = turn.add(f"[bold]{item['agent']}[/] model call {item['step']}")
            else:
                arguments = ", ".join(f"{name}={value!r}" for name, value in item["arguments"].items())
                call = escape(f"{item['name']}({arguments})"[:100])
                node.add(f"{call} [dim]{item['status']}, {(item['seconds'] or 0) * 1000:.0f} ms[/]")
    return tree


def cost_table(view: dict[str, Any]) -> Table:
    """Return what a conversation used and cost, by agent and model."""
    table = Table("agent", "tier", "model", "calls", "tokens in", "tokens out", "cost", header_style="bold")
    total = {"agent": "total", "tier": "", "model": "", **view["usage"]}
    for line in (*view["usage_by"], total):
        cells = [line["agent"], line["tier"], line["model"] or line.get("tool") or ""]
        cells += [str(line[name]) for name in ("model_calls", "input_tokens", "output_tokens")]
        table.add_row(*cells, f"${line['cost_usd']}", end_section=line is view["usage_by"][-1])
    return table


def _how_to_go_on(settings: Settings, url: str, secret: str) -> None:
    flag = "" if settings.port == 8000 else f" --port {settings.port}"
    console.print(
        f"Talk to it:      ADMIRALTY_API_KEY={secret} admiralty chat --url {url}\n"
        f"Start it again:  admiralty up fleets.support --home {settings.resolved_home}{flag}\n"
        "Real models:     export OPENAI_API_KEY=… (or ANTHROPIC_API_KEY), then admiralty up\n"
        "Limit it:        admiralty budgets create --scope tenant:default --limit 200 --window month\n"
        'Your own agents: README.md, "Your first fleet in ten minutes"',
        soft_wrap=True,
        markup=False,
    )
