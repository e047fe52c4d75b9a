"""``Fleet``: the agents that answer together, who is asked first, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import KW_ONLY, dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, get_args

from admiralty.agents.agent import NAME, Agent
from admiralty.agents.prompt import definition_directory
from admiralty.core.errors import ConfigurationError, DefinitionError
from admiralty.tools import Tool


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetContext:
    """What a fleet's ``setup`` and ``knowledge`` are given in each process that needs them."""

    home: Path
    """Folder that the fleet may write to; shared by all processes of the machine."""
    data: Path | None = None
    """What the operator gave with ``--data``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Where a turn is ended by rule."""

    steps: int = 25
    """Model calls in a turn."""
    calls: int = 100
    """Tool calls in a turn."""
    handoffs: int = 6
    seconds: float = 120.0
    """From the arrival of the message to the end of the answer."""
    history: int = 60
    """Messages of earlier turns that agents are shown."""

    def __post_init__(self) -> None:
        for name in ("steps", "calls", "handoffs", "seconds", "history"):
            if not getattr(self, name) > 0:
                raise DefinitionError(f"Limits.{name}", getattr(self, name), "not above 0", "Raise it.")


MultitaskStrategy = Literal["reject", "enqueue", "interrupt", "rollback"]

Documents = Mapping[str, Sequence[str | Path]]
"""Names of corpora, each with the files that belong to it."""


@dataclass(frozen=True)
class Fleet:
    """A fleet: ``Fleet("support", agents=[triage, lookup], entry="triage")``.

    Raises DefinitionError for an unknown entry, a handoff to nobody, an unknown tool, an agent that
    nothing leads to, or handoffs that lead back to the entry.
    """

    name: str
    _: KW_ONLY
    agents: Sequence[Agent]
    entry: str
    description: str = ""
    tools: Sequence[Tool] = ()
    """Tools that agents may name as text."""
    knowledge: Documents | Callable[[FleetContext], Documents] = field(default_factory=dict)
    """Documents that agents may search: files relative to the fleet's own, by corpus."""
    setup: Callable[[FleetContext], Any] | None = None
    """Opens what the tools need, once in each process; they find it as ``ctx.resources``."""
    limits: Limits = field(default_factory=Limits)
    multitask_strategy: MultitaskStrategy = "reject"
    """What becomes of a message that comes while an earlier one of its conversation is being answered:
    ``reject`` it, ``enqueue`` it, or let it ``interrupt`` the earlier turn (what was done is kept in mind)
    or ``rollback`` it (it is forgotten, unless it has changed something)."""
    directory: Path = field(default=Path(), repr=False)
    """Folder of the file that defines the fleet; found by itself."""

    def __post_init__(self) -> None:
        key = f"Fleet({self.name!r})"
        if not isinstance(self.name, str) or not NAME.match(self.name):
            raise DefinitionError(
                "Fleet.name", self.name, "not a name", "Use a-z, 0-9, _ and -, beginning with a letter."
            )
        if self.directory == Path():
            object.__setattr__(self, "directory", definition_directory(skip=__name__))
        object.__setattr__(self, "tools", tuple(self.tools))
        object.__setattr__(self, "agents", tuple(self.agents))
        if self.setup is not None and not callable(self.setup):
            raise DefinitionError(
                f"{key}.setup", self.setup, "cannot be called", "Give a function of a FleetContext."
            )
        if self.multitask_strategy not in get_args(MultitaskStrategy):
            raise DefinitionError(
                f"{key}.multitask_strategy",
                self.multitask_strategy,
                "unknown",
                f"Use one of {', '.join(get_args(MultitaskStrategy))}.",
            )
        self._check_names(key)
        shared = _shared_tools(self.tools, key)
        object.__setattr__(self, "agents", tuple(_with_tools(agent, shared, key) for agent in self.agents))
        self._check_paths(key)

    def _check_names(self, key: str) -> None:
        if not self.agents:
            raise DefinitionError(f"{key}.agents", [], "empty", "Give at least one agent.")
        for agent in self.agents:
            if not isinstance(agent, Agent):
                raise DefinitionError(f"{key}.agents", agent, "is no Agent", "Give Agent(...)s.")
        names = [agent.name for agent in self.agents]
        for name in names:
            if names.count(name) > 1:
                raise DefinitionError(f"{key}.agents", name, "two agents have this name", "Rename one.")
        known = ", ".join(names)
        if self.entry not in names:
            raise DefinitionError(f"{key}.entry", self.entry, "no such agent", f"Agents: {known}.")
        for agent in self.agents:
            for target in agent.handoffs:
                if target not in names:
                    raise DefinitionError(
                        f"Agent({agent.name!r}).handoffs", target, "no such agent", f"Agents: {known}."
                    )

    def _check_paths(self, key: str) -> None:
        reached, frontier = {self.entry}, [self.entry]
        while frontier:
            agent = self.agent(frontier.pop())
            if self.entry in agent.handoffs:
                raise DefinitionError(
                    f"{key}.entry",
                    self.entry,
                    f"handoffs lead back to it from {agent.name!r}: a turn could go round for ever",
                    f"Remove {self.entry!r} from the handoffs of {agent.name!r}.",
                )
            new = set(agent.handoffs) - reached
            reached |= new
            frontier.extend(sorted(new))
        if stray := [agent.name for agent in self.agents if agent.name not in reached]:
            raise DefinitionError(
                f"{key}.agents", stray[0], "no handoff leads to it", "Add it to an agent's handoffs."
            )

    def agent(self, name: str) -> Agent:
        """Return the agent of that name. Raises KeyError."""
        for agent in self.agents:
            if agent.name == name:
                return agent
        raise KeyError(name)

    def documents(self, context: FleetContext) -> dict[str, dict[str, str]]:
        """Read the fleet's knowledge: corpus -> source name -> text.

        Raises DefinitionError for a file that is missing or not UTF-8.
        """
        corpora = self.knowledge(context) if callable(self.knowledge) else self.knowledge
        result: dict[str, dict[str, str]] = {}
        for corpus, files in corpora.items():
            for file in files:
                path = self.directory / file
                texts = result.setdefault(corpus, {})
                if path.name in texts:
                    raise DefinitionError(
                        f"Fleet({self.name!r}).knowledge[{corpus!r}]",
                        str(path),
                        "another document has this file name, and citations would not tell them apart",
                        "Rename one.",
                    )
                try:
                    texts[path.name] = path.read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError) as error:
                    raise DefinitionError(
                        f"Fleet({self.name!r}).knowledge[{corpus!r}]",
                        str(path),
                        f"cannot be read: {error}",
                        "Paths are relative to the file that defines the fleet.",
                    ) from error
        return result

    def local(self, **options: Any) -> AbstractAsyncContextManager[Any]:
        """Run the whole fleet in this process, without Ray: for tests and notebooks.

        ``async with fleet.local() as desk: reply = await desk.ask("Where is my order?")``. Options
        are those of ``admiralty.runtime.local.open_local``: ``data``, ``home``, ``settings``.
        """
        # The runtime stands above this layer, so it announces itself by an entry point.
        for entry in entry_points(group="admiralty.runners", name="local"):
            runner: AbstractAsyncContextManager[Any] = entry.load()(self, **options)
            return runner
        raise ConfigurationError("admiralty is not installed: run `pip install admiralty`.")


def _shared_tools(tools: Sequence[Tool], key: str) -> dict[str, Tool]:
    shared: dict[str, Tool] = {}
    for tool in tools:
        if not isinstance(tool, Tool):
            name = getattr(tool, "__name__", tool)
            raise DefinitionError(
                f"{key}.tools", name, "is not a tool", "Decorate the function with @tool(effect=...)."
            )
        if tool.name in shared:
            raise DefinitionError(f"{key}.tools", tool.name, "two tools have this name", "Rename one.")
        shared[tool.name] = tool
    return shared


def _with_tools(agent: Agent, shared: Mapping[str, Tool], key: str) -> Agent:
    """Return the agent with the tools that it names replaced by the fleet's."""
    if not any(isinstance(tool, str) for tool in agent.tools):
        return agent
    for name in agent.tools:
        if isinstance(name, str) and name not in shared:
            known = ", ".join(sorted(shared)) or "none"
            raise DefinitionError(
                f"Agent({agent.name!r}).tools", name, "unknown tool", f"Tools of {key}: {known}."
            )
    tools = tuple(shared[tool] if isinstance(tool, str) else tool for tool in agent.tools)
    return replace(agent, tools=tools)
