"""``admiralty chat``: a terminal conversation that shows what happens while it happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import typer
from rich.markup import escape

from admiralty.core.errors import AdmiraltyError, ConfigurationError, Retryable
from admiralty.core.settings import Settings
from admiralty.runtime.cli.output import console, failure
from admiralty.runtime.serve.cluster import UpRecord

HELP = "[dim]Empty line or Ctrl-D ends. /new begins another conversation, /cost shows what this one cost.[/]"


def run_chat(
    settings: Settings,
    message: str | None,
    *,
    url: str | None,
    key: str | None,
    conversation: str | None,
    agent: str | None,
    quiet: bool,
) -> None:
    """Say one message, or talk until the person leaves."""
    record = UpRecord.read(settings.resolved_home)
    base = url or (record.url if record else f"http://127.0.0.1:{settings.port}")
    if not key:
        raise ConfigurationError(
            "No API key. Set ADMIRALTY_API_KEY or give --key; `admiralty keys create` makes one."
        )
    timeout = httpx.Timeout(30.0, read=180.0)
    with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {key}"}, timeout=timeout) as client:
        talk = Talk(client, agent, quiet)
        talk.begin(conversation)
        if message is not None:
            talk.say(message)
            return
        console.print(f"[bold]{base}[/]  conversation {talk.conversation}\n{HELP}")
        _interact(talk)


def _interact(talk: Talk) -> None:
    while True:
        try:
            said = console.input("[bold cyan]you ›[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            said = ""
        if not said:
            console.print(f"[dim]Go on later: admiralty chat --conversation {talk.conversation}[/]")
            return
        try:
            if said == "/new":
                talk.begin(None)
                console.print(f"[dim]conversation {talk.conversation}[/]")
            elif said == "/cost":
                talk.show_cost()
            else:
                talk.say(said)
        except KeyboardInterrupt:
            console.print("\n[dim]Stopped listening; the answer will be in the conversation.[/]")
        except AdmiraltyError as error:
            failure(error)


class Talk:
    """One conversation over HTTP."""

    def __init__(self, client: httpx.Client, agent: str | None, quiet: bool) -> None:
        self._client = client
        self._agent = agent
        self._quiet = quiet
        self.conversation = ""

    def begin(self, conversation: str | None) -> None:
        """Take up a conversation, or make a new one."""
        if conversation is not None:
            self._json("GET", f"/v1/conversations/{conversation}")
            self.conversation = conversation
        else:
            self.conversation = self._json("POST", "/v1/conversations", json={})["id"]

    def say(self, message: str) -> None:
        """Send a message and print the turn as it streams. Exits with 1 if it fails."""
        body = {"content": message} | ({"agent": self._agent} if self._agent else {})
        shown, failed = False, False
        path = f"/v1/conversations/{self.conversation}/messages"
        try:
            with self._client.stream(
                "POST", path, json=body, headers={"Accept": "text/event-stream"}
            ) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise _problem(answer)
                for kind, data in _events(answer.iter_lines()):
                    if kind == "token":
                        console.print(escape(data["text"]), end="", soft_wrap=True)
                        shown = True
                        continue
                    if shown and kind != "cost":
                        console.print()
                    shown = shown and kind == "cost"
                    failed = failed or kind == "error"
                    self._show(kind, data)
        except httpx.HTTPError as error:
            raise _unreachable(self._client, error) from error
        if failed:
            raise typer.Exit(1)

    def _show(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "error":
            failure(AdmiraltyError(str(data.get("detail") or data.get("title"))))
        elif self._quiet:
            return
        elif kind == "handoff":
            console.print(f"[dim]  → {data['source']} hands off to [bold]{data['target']}[/][/]")
        elif kind == "tool" and data["status"] != "started":
            arguments = ", ".join(f"{name}={value!r}" for name, value in data["arguments"].items())
            mark = {"ok": "✓", "confirmation_required": "?"}.get(data["status"], "✗")
            text = f"  {mark} {data['name']}({arguments})"[:160]
            console.print(f"[dim]{escape(text)} {data['seconds'] * 1000:.0f} ms[/]", soft_wrap=True)
        elif kind == "done":
            if citations := data.get("metadata", {}).get("citations"):
                console.print(f"[dim]  cites {escape(', '.join(map(str, citations)))}[/]", soft_wrap=True)
            tokens = data["usage"]["total_tokens"]
            model = data.get("metadata", {}).get("model", "")
            console.print(
                f"[dim]  {data.get('agent')} · {escape(str(model))} · {tokens} tokens · "
                f"${data['cost_usd']} · {data['seconds']:.2f} s[/]"
            )

    def show_cost(self) -> None:
        """Print what the conversation used and cost so far."""
        view = self._json("GET", f"/v1/conversations/{self.conversation}")
        console.print_json(json.dumps({name: view[name] for name in ("usage", "usage_by")}))

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise _unreachable(self._client, error) from error
        if answer.status_code >= 400:
            raise _problem(answer)
        result: dict[str, Any] = answer.json()
        return result


def _events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (event, data) of a stream of server-sent events."""
    kind, data = "message", ""
    for line in lines:
        name, _, value = line.partition(":")
        if not line and data:
            yield kind, json.loads(data)
            kind, data = "message", ""
        elif name == "event":
            kind = value.strip()
        elif name == "data":
            data += value.strip()


def _problem(answer: httpx.Response) -> AdmiraltyError:
    try:
        detail = answer.json().get("detail")
    except ValueError:
        detail = None
    return AdmiraltyError(f"{answer.status_code}: {detail or answer.text[:200] or answer.reason_phrase}")


def _unreachable(client: httpx.Client, error: httpx.HTTPError) -> Retryable:
    reason = str(error) or type(error).__name__
    return Retryable(
        f"{client.base_url} does not answer ({reason}). Is the fleet up? See `admiralty status`."
    )
