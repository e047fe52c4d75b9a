"""``admiralty chat``: a terminal conversation that shows what happens while it happens."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import typer
from rich.markup import escape

from admiralty.core.errors import AdmiraltyError, ConfigurationError, Retryable
from admiralty.core.settings import Settings
from admiralty.runtime.cli.output import console, failure
from admiralty.runtime.serve.cluster import UpRecord

TRIES = 5
"""How often in a row a turn is come back to whose stream breaks off."""

PAUSE_SECONDS = 0.5
"""Before the first time; each further one waits that much longer."""

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


class Turn:
    """A turn as its events tell it, over one stream or several."""

    def __init__(self, show: Callable[[str, dict[str, Any]], None]) -> None:
        self._show = show
        self.run = ""
        """Its id, once it is known."""
        self.last = ""
        """Id of the last event that was heard."""
        self.ended = False
        self.failed = False
        self.heard = False
        """Whether anything was heard since it was last come back to."""
        self._in_line = False
        self._whole = True

    def hear(self, number: str, kind: str, data: dict[str, Any]) -> None:
        """Print an event."""
        self.last, self.heard = number or self.last, True
        if kind == "run" and data.get("attempt", 1) > 1:  # it was taken over: what was begun is said anew
            self._whole = False
        if kind == "token":
            if self._whole:  # else its beginning is missing: the message will have all of it
                console.print(escape(data["text"]), end="", soft_wrap=True)
                self._in_line = True
            return
        if self._in_line and kind != "cost":
            console.print()
            self._in_line = False
        if kind == "message" and data["role"] == "assistant" and not self._whole:
            console.print(escape(data["content"]), soft_wrap=True)
        self.ended = self.ended or kind in ("done", "error")
        self.failed = self.failed or kind == "error"
        self._show(kind, data)

    def come_back(self) -> None:
        """The stream broke off, and another one begins behind the last event."""
        if self._in_line:
            console.print()
        self._in_line = self._whole = self.heard = False


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
        """Send a message and print the turn as it streams. Exits with 1 if it fails.

        Comes back where the stream breaks off before the turn has ended: the turn goes on without us.
        """
        body = {"content": message} | ({"agent": self._agent} if self._agent else {})
        turn = Turn(self._show)
        self._listen(turn, "POST", f"/v1/conversations/{self.conversation}/messages", json=body)
        tries = 0
        while not turn.ended:
            tries = 1 if turn.heard else tries + 1
            if tries > TRIES:
                raise Retryable(
                    f"The connection was lost {TRIES} times. The answer will be in the conversation: "
                    f"admiralty chat --conversation {self.conversation}"
                )
            console.print(f"[dim]The connection was lost; coming back ({tries} of {TRIES}) …[/]")
            time.sleep(PAUSE_SECONDS * tries)
            turn.come_back()
            path = f"/v1/conversations/{self.conversation}/runs/{turn.run}/events"
            self._listen(turn, "GET", path)
        if turn.failed:
            raise typer.Exit(1)

    def _listen(self, turn: Turn, method: str, path: str, **options: Any) -> None:
        """Let ``turn`` hear a stream of its events, to its end or until it breaks off."""
        headers = {"Accept": "text/event-stream"}
        if turn.last:
            headers["Last-Event-ID"] = turn.last
        try:
            with self._client.stream(method, path, headers=headers, **options) as answer:
                if answer.status_code >= 500 and turn.run:
                    return  # the replica is going, or the database is away: they come back
                if answer.status_code >= 400:
                    answer.read()
                    raise _problem(answer)
                turn.run = answer.headers.get("x-run-id", turn.run)
                for event in _events(answer.iter_lines()):
                    turn.hear(*event)
        except httpx.HTTPError as error:
            if not turn.run:
                raise _unreachable(self._client, error) from error

    def _show(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "error":
            failure(AdmiraltyError(str(data.get("detail") or data.get("title"))))
        elif self._quiet:
            return
        elif kind == "handoff":
            console.print(f"[dim]  → {data['source']} hands off to [bold]{data['target']}[/][/]")
        elif kind == "tool" and data["status"] != "started":
            mark = {"ok": "✓", "confirmation_required": "?"}.get(data["status"], "✗")
            text = f"  {mark} {data['name']}({_arguments(data)})"[:160]
            console.print(f"[dim]{escape(text)} {data['seconds'] * 1000:.0f} ms[/]", soft_wrap=True)
        elif kind == "approval":
            self._show_approval(data)
        elif kind == "done":
            if citations := data.get("metadata", {}).get("citations"):
                console.print(f"[dim]  cites {escape(', '.join(map(str, citations)))}[/]", soft_wrap=True)
            tokens = data["usage"]["total_tokens"]
            model = data.get("metadata", {}).get("model", "")
            console.print(
                f"[dim]  {data.get('agent')} · {escape(str(model))} · {tokens} tokens · "
                f"${data['cost_usd']} · {data['seconds']:.2f} s[/]"
            )

    def _show_approval(self, data: dict[str, Any]) -> None:
        if data["status"] != "pending":
            by = f" by {data['decided_by']}" if data.get("decided_by") else ""
            console.print(f"[dim]  {escape(data['tool'])}: {data['status']}{escape(by)}[/]", soft_wrap=True)
            return
        call = f"{data['tool']}({_arguments(data)})"
        until = dt.datetime.fromtimestamp(data["expires_at"], dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
        console.print(
            f"[yellow]  ⏸ a person must decide on {escape(call)}: {escape(data['reason'])}[/]\n"
            f"[dim]    until {until}: admiralty approvals approve {data['approval_id']}   (or reject)\n"
            "    Ctrl-C stops listening; the turn goes on when it is decided.[/]",
            soft_wrap=True,
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


def _arguments(data: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in data["arguments"].items())


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (id, event, data) of a stream of server-sent events."""
    number, kind, data = "", "message", ""
    for line in lines:
        name, _, value = line.partition(":")
        if not line and data:
            yield number, kind, json.loads(data)
            number, kind, data = "", "message", ""
        elif name == "id":
            number = value.strip()
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
