"""An experiment: what ChatOpenAI costs when aiohttp and plain JSON stand in for the OpenAI SDK below it.

ChatOpenAI uses its `async_client` by `create`, and `with_raw_response.create` or `.parse`, and takes dicts as
well as the SDK's models. Only success is handled: this measures a cost and is no client to use.
"""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, Self

import aiohttp


class ThinCompletions:
    """Stands where `AsyncOpenAI().chat.completions` would stand."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self._url = f"{base_url}/chat/completions"
        self.with_raw_response = SimpleNamespace(create=self._whole, parse=self._whole)

    async def create(self, **payload: Any) -> "Chunks":
        """Begin a streamed answer."""
        return Chunks(await self._session.post(self._url, json=payload))

    async def _whole(self, **payload: Any) -> Any:
        async with self._session.post(self._url, json=payload) as response:
            document = await response.json()
        return SimpleNamespace(parse=lambda: document, headers={})


class Chunks:
    """A streamed answer as dicts."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._response.release()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        async for line in self._response.content:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
