"""Several processes on one database, each with conversations of its own, a model that does what it is told,
and a database that fails as a test wishes.

What a user says is a program, its steps separated by ``; ``: ``look X`` and ``note X`` call tools (``note``
changes the world), ``pass NAME`` hands over to another agent, ``fail NAME`` fails, ``hold NAME STEP`` waits
until the test lets it go on, and then takes STEP. Anything else is the answer.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage

from admiralty.agents import Agent, Fleet, Limits, inline_prompt
from admiralty.core.clock import SystemClock
from admiralty.core.errors import ProviderUnavailable, Retryable, RunInterrupted
from admiralty.core.ids import new_id
from admiralty.core.ports import AnswerStream
from admiralty.core.settings import Settings
from admiralty.core.values import TIERS, Event, Identity, ModelCall, ModelReply, TokenDelta, Usage
from admiralty.runtime.agents.hosts import LocalAgentHost
from admiralty.runtime.agents.tools import Surroundings
from admiralty.runtime.composition.memory import build_memory
from admiralty.runtime.composition.scheduler import build_scheduler
from admiralty.runtime.conversations import Conversations, LiveRun
from admiralty.runtime.durable.values import Run
from admiralty.runtime.scheduler.dispatch import by_account
from admiralty.runtime.storage import Database
from admiralty.runtime.storage.checkpoints import SqlCheckpointSaver
from admiralty.runtime.testing import ScriptedScheduler, calls
from admiralty.tools import ToolContext, ask_person, tool

US, THEM = Identity(tenant="us", user="ann"), Identity(tenant="them")

SECONDS = 30.0
"""Longest wait for anything."""

LEASE = 15.0
"""Seconds after which a run is taken over: no test waits for them, but puts the clock forward."""

ERRORS: dict[str, Callable[[], Exception]] = {
    "retryable": lambda: Retryable("Not now."),
    "interrupted": lambda: RunInterrupted("The agent's process ended."),
    "provider": lambda: ProviderUnavailable("It does not answer."),
    "bug": lambda: KeyError("a secret"),
}


class HandClock(SystemClock):
    """The system's clock, which a test can put forward."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


class FragileDatabase(Database):
    """A database that goes away when a test says so."""

    away = False
    """Every access fails, as if the server did not answer."""
    refused = 0
    """Writes that failed for it."""
    silent = False
    """No access is ever answered, as in a process that hangs."""
    unheard: Callable[[], bool] = staticmethod(lambda: False)
    """Whether a write is committed, but nobody hears of it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._unanswered: list[Future[Any]] = []

    def bury(self) -> None:
        """Answer again, so that what is left of the process can be put away."""
        self.silent = False
        for future in self._unanswered:
            if not future.done():
                future.set_exception(Retryable("The process is dead."))

    def submit(self, work: Any) -> Future[Any]:
        if self.silent:
            self._unanswered.append(Future())
            return self._unanswered[-1]
        if self.away:
            self.refused += 1
            failed: Future[Any] = Future()
            failed.set_exception(Retryable("The database does not answer: away"))
            return failed
        if not self.unheard():
            return super().submit(work)
        unheard: Future[Any] = Future()
        super().submit(work).add_done_callback(
            lambda _: unheard.set_exception(Retryable("The database does not answer: unheard"))
        )
        return unheard

    async def read(self, work: Any) -> Any:
        if self.silent:
            self._unanswered.append(Future())
            return await asyncio.wrap_future(self._unanswered[-1])
        if self.away:
            raise Retryable("The database does not answer: away")
        return await super().read(work)


@dataclass
class World:
    """What outlives processes."""

    notes: list[str] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Steps that models were asked for."""


@tool(effect="read")
def look(what: str, ctx: ToolContext) -> str:
    """Look at something."""
    ctx.resources.looked.append(what)
    return f"seen {what}"


@tool(effect="write")
def note(text: str, ctx: ToolContext) -> str:
    """Write something down."""
    ctx.resources.notes.append(text)
    ctx.session["noted"] = [*ctx.session.get("noted", []), text]
    return f"noted {text}"


def desk(limits: Limits | None = None, **options: Any) -> Fleet:
    """A clerk who may hand over to another, who may hand over to a third, and so on."""
    tools = [look, note, ask_person]
    names = ["clerk", "other", "third"]
    agents = [
        Agent(name, prompt=inline_prompt(f"You are the {name}."), description=name, tools=tools, handoffs=to)
        for name, to in zip(names, (["other"], ["third"], ["other"]), strict=True)
    ]
    return Fleet("desk", agents=agents, entry="clerk", limits=limits or Limits(), **options)


class Model:
    """Takes the steps of the user's program: a script for a scheduler, and a provider."""

    name = "scripted"

    def __init__(self, world: World, *, holds: bool) -> None:
        self.world = world
        self.holds = holds
        self.seen: list[ModelCall] = []
        self._reached: dict[str, asyncio.Event] = {}
        self._open: dict[str, asyncio.Event] = {}

    async def reached(self, name: str) -> None:
        """Return when the model has come to a ``hold``."""
        async with asyncio.timeout(SECONDS):
            await self._reached.setdefault(name, asyncio.Event()).wait()

    def release(self, name: str) -> None:
        """Let what holds go on."""
        self._open.setdefault(name, asyncio.Event()).set()

    async def __call__(self, call: ModelCall) -> AIMessage:
        self.seen.append(call)
        place = max(i for i, message in enumerate(call.messages) if isinstance(message, HumanMessage))
        steps = str(call.messages[place].text).split("; ")
        number = sum(isinstance(message, AIMessage) for message in call.messages[place:])
        step = steps[min(number, len(steps) - 1)]
        self.world.asked.append(step)
        return await self._take(step)

    async def _take(self, step: str) -> AIMessage:
        verb, _, rest = step.partition(" ")
        if verb == "hold":
            name, _, then = rest.partition(" ")
            self._reached.setdefault(name, asyncio.Event()).set()
            if self.holds:
                await self._open.setdefault(name, asyncio.Event()).wait()
            return await self._take(then)
        if verb == "fail":
            raise ERRORS[rest]()
        if verb == "pass":
            return calls((f"handoff_to_{rest}", {"reason": "so"}))
        wished = {"look": "what", "note": "text", "ask_person": "question"}
        return calls((verb, {wished[verb]: rest})) if verb in wished else AIMessage(step)

    async def stream(self, call: ModelCall, model: str) -> AnswerStream:
        message = await self(call)
        for word in str(message.text).split():
            yield TokenDelta(text=f"{word} ")
        usage = Usage(input_tokens=10, output_tokens=3)
        yield ModelReply(
            message=message, model=f"scripted:{model}", tier="small", usage=usage, cost=None, seconds=0.01
        )


@dataclass(kw_only=True)
class Process:
    """A process that takes part in a fleet's conversations."""

    owner: str
    conversations: Conversations
    database: FragileDatabase
    model: Model

    async def hang(self) -> None:
        """Do nothing more, as a process that is stopped, or has died."""
        self.database.silent = True
        await self.conversations._worker.stop()

    async def tick(self) -> None:
        """Look at once for what is to be renewed, taken over and begun."""
        await self.conversations._worker._keep()
        self.conversations.wake()

    async def create(self) -> str:
        return (await self.conversations.create(US)).id

    async def say(self, conversation: str, message: str, **options: Any) -> LiveRun:
        return await self.conversations.say(US, conversation, message, **options)

    async def ends(self, conversation: str, run_id: str, *, after: int = 0) -> list[Event]:
        """Return the run's stored events behind ``after``, once it has ended."""
        live = await self.conversations.follow(US, conversation, run_id, after=after)
        return [event for event in await heard(live) if event.type != "token"]

    async def run(self, run_id: str) -> Run:
        return await self.conversations.runs.find(run_id)

    async def runs(self, conversation: str) -> list[Run]:
        return await self.conversations.runs.of_conversation(US, conversation)

    async def becomes(self, run_id: str, *statuses: str) -> Run:
        """Return a run when it has one of these statuses."""
        found: list[Run] = []

        async def there() -> bool:
            found[:] = [await self.run(run_id)]
            return found[0].status in statuses

        await until(there)
        return found[0]


async def until(holds: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Return when a condition holds that nothing tells of."""
    async with asyncio.timeout(SECONDS):
        while not (await answer if inspect.isawaitable(answer := holds()) else answer):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # databases have no events


async def heard(live: LiveRun) -> list[Event]:
    """Return what a run tells until its end."""
    async with asyncio.timeout(SECONDS):
        return [event async for event in live.follow()]


@asynccontextmanager
async def process(
    url: str,
    world: World,
    *,
    owner: str = "",
    clock: HandClock | None = None,
    fleet: Fleet | None = None,
    real: bool = False,
    works: bool = True,
    holds: bool = False,
    **settings: Any,
) -> AsyncIterator[Process]:
    """One process on the database at ``url``.

    ``real``: with the real scheduler, which keeps replies and effects; ``works``: whether it renews its runs,
    and takes over others'; ``holds``: whether its model waits where it is told to.
    """
    async with AsyncExitStack() as stack:
        owner = owner or new_id("process")
        fleet, clock, model = fleet or desk(), clock or HandClock(), Model(world, holds=holds)
        given = {"run_lease_seconds": LEASE, "run_retry_seconds": 0} | settings
        configured = Settings.load(
            home=Path(sa.make_url(url).database or "").parent if url.startswith("sqlite") else Path(),
            embedder="hashing",
            models=dict.fromkeys(TIERS, "scripted:one"),
            prices={"scripted:*": {"input": "0", "output": "0", "request": "0.001"}},
            **given,
        )
        database = FragileDatabase(url)
        stack.push_async_callback(database.close)
        scheduler: Any = ScriptedScheduler(model)
        if real:
            memory = await build_memory(configured, fleet)
            providers = by_account([model])
            scheduler = build_scheduler(configured, fleet, memory, database, providers=providers)
            stack.push_async_callback(scheduler.close)
            await scheduler.start()
        around = Surroundings(scheduler=scheduler, memory=None, resources=world)
        conversations = Conversations(
            fleet=fleet,
            host=LocalAgentHost(fleet, fleet.agents, around),
            database=database,
            checkpointer=SqlCheckpointSaver(database),
            clock=clock,
            owner=owner,
            settings=configured,
        )
        made = Process(owner=owner, conversations=conversations, database=database, model=model)
        if works:
            conversations.start()
        stack.push_async_callback(_end, made)
        yield made


async def _end(process: Process) -> None:
    if process.database.silent:  # it is dead, and writes nothing any more, whatever it is told
        live = list(process.conversations._live.values())
        tasks = {task for one in live for task in (one.task, one.turn, one._writing) if task}
        for _ in range(100):
            for task in tasks:
                task.cancel()
            if not tasks or not (await asyncio.wait(tasks, timeout=0.01))[1]:
                break
        process.database.bury()
    else:
        await process.conversations.drain(0.0)


def types(events: Sequence[Event]) -> list[str]:
    return [event.type for event in events]


async def rows(database: Database, *tables: sa.Table) -> list[Any]:
    """Return everything that stands in tables."""

    def select(connection: sa.Connection) -> list[Any]:
        return [connection.execute(sa.select(table).order_by(*table.primary_key)).all() for table in tables]

    return await database.read(select)
