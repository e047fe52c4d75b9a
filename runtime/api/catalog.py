"""What can be asked here: the fleet and its agents, as models (OpenAI's list) and in our own words."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field
from starlette.responses import Response

from admiralty.agents import Agent, Autoscale, Fleet
from admiralty.core.values import Effect, Tier
from admiralty.runtime.api.chat_schema import OpenAIError
from admiralty.runtime.api.errors import ModelNotFound
from admiralty.runtime.api.wire import Shown, json_response
from admiralty.tools import Tool

_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")


def plausible_id(text: str) -> bool:
    """Tell whether ``text`` could be an id of ours. Others need not be looked up."""
    return _ID.fullmatch(text) is not None


class ModelInfo(Shown):
    """A model in OpenAI's sense: the fleet, or one of its agents."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Shown):
    """All models."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "list",
                "data": [
                    {"id": "support", "object": "model", "created": 1795363200, "owned_by": "admiralty"},
                    {
                        "id": "support/lookup",
                        "object": "model",
                        "created": 1795363200,
                        "owned_by": "admiralty",
                    },
                ],
            }
        }
    )

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class ToolInfo(Shown):
    """A tool of an agent."""

    name: str
    description: str
    effect: Effect
    confirm: bool
    """Whether the user must confirm each call."""
    timeout: float
    """Seconds."""
    parameters: dict[str, Any]
    """JSON schema of the arguments."""


class PromptInfo(Shown):
    """Which prompt an agent has; its text is not told."""

    source: str
    version: str
    digest: str
    """SHA-256, hexadecimal."""


class ReplicaInfo(Shown):
    """How many replicas of an agent there may be."""

    minimum: int
    maximum: int


class AgentInfo(Shown):
    """An agent of the fleet."""

    name: str
    model: str
    """Name to ask it by directly."""
    entry: bool
    """Whether turns begin with it."""
    description: str
    version: str
    """Digest over prompt, tools, model configuration and code."""
    tier: Tier
    tools: list[ToolInfo]
    handoffs: list[str]
    placement: Literal["deployment", "inline"]
    replicas: ReplicaInfo
    prompt: PromptInfo
    output: dict[str, Any] | None
    """JSON schema of its answers, where it declares one."""


class AgentList(Shown):
    """The fleet."""

    fleet: str
    description: str
    entry: str
    agents: Annotated[list[AgentInfo], Field(min_length=1)]


class Catalog:
    """The fleet as clients see it. Made once: definitions do not change while they run."""

    def __init__(self, fleet: Fleet, created: int) -> None:
        self._fleet = fleet
        self._models: dict[str, str | None] = {fleet.name: None}
        self._models |= {f"{fleet.name}/{agent.name}": agent.name for agent in fleet.agents}
        self.models = ModelList(
            data=[ModelInfo(id=name, created=created, owned_by="admiralty") for name in self._models]
        )
        self.agents = AgentList(
            fleet=fleet.name,
            description=fleet.description,
            entry=fleet.entry,
            agents=[_agent_info(fleet, agent) for agent in fleet.agents],
        )

    def agent_of(self, model: str) -> str | None:
        """Return the agent that a model names, ``None`` for the fleet. Raises ModelNotFound."""
        if model not in self._models:
            known = ", ".join(self._models)
            raise ModelNotFound(f"There is no model {model[:100]!r}. There are: {known}.", param="model")
        return self._models[model]

    def model(self, name: str) -> ModelInfo:
        """Return one model. Raises ModelNotFound."""
        self.agent_of(name)
        return next(model for model in self.models.data if model.id == name)


def _agent_info(fleet: Fleet, agent: Agent) -> AgentInfo:
    prompt, replicas = agent.instructions, agent.replicas
    bounds = (replicas.minimum, replicas.maximum) if isinstance(replicas, Autoscale) else (replicas, replicas)
    return AgentInfo(
        name=agent.name,
        model=f"{fleet.name}/{agent.name}",
        entry=agent.name == fleet.entry,
        description=agent.description,
        version=agent.version,
        tier=agent.tier,
        tools=[_tool_info(tool) for tool in agent.tools if isinstance(tool, Tool)],
        handoffs=list(agent.handoffs),
        placement=agent.placement,
        replicas=ReplicaInfo(minimum=bounds[0], maximum=bounds[1]),
        prompt=PromptInfo(source=prompt.source, version=prompt.version, digest=prompt.digest),
        output=agent.output_schema,
    )


def _tool_info(tool: Tool) -> ToolInfo:
    return ToolInfo(
        name=tool.name,
        description=tool.description,
        effect=tool.effect,
        confirm=tool.confirm,
        timeout=tool.timeout,
        parameters=dict(tool.schema["function"]["parameters"]),
    )


def add_catalog_routes(router: APIRouter, catalog: Catalog) -> None:
    """Add ``/v1/models`` and ``/v1/agents``."""
    openai_errors: dict[int | str, dict[str, Any]] = {
        "4XX": {"model": OpenAIError, "description": "What is wrong, in OpenAI's shape."}
    }

    @router.get(
        "/v1/models",
        tags=["OpenAI-compatible"],
        summary="List the models",
        response_model=ModelList,
        responses=openai_errors,
    )
    async def list_models() -> Response:
        """Return the fleet and each of its agents as models of OpenAI's API."""
        return json_response(catalog.models)

    @router.get(
        "/v1/models/{model:path}",
        tags=["OpenAI-compatible"],
        summary="Show one model",
        response_model=ModelInfo,
        responses=openai_errors,
    )
    async def show_model(model: Annotated[str, Path(examples=["support/lookup"])]) -> Response:
        """Return one model."""
        return json_response(catalog.model(model))

    @router.get("/v1/agents", tags=["fleet"], summary="Show the fleet's agents", response_model=AgentList)
    async def list_agents() -> Response:
        """Return the agents with their tools, effects, handoffs and versions. Prompt texts are not told."""
        return json_response(catalog.agents)
