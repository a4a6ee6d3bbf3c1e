"""Client of an OpenAI-compatible server with vLLM's adapter endpoints. Used by pool and adapter."""

import asyncio
import json
from http import HTTPStatus
from pathlib import Path

import aiohttp

LIST_SECONDS = 10
COMPLETE_SECONDS = 120
LOAD_SECONDS = 300
THINKERS = "max_completion_tokens"


class ServerUnreachable(Exception):
    """The model server does not answer, or with what nobody can read."""


class ServerRefused(Exception):
    """The model server answered with an error; the message is its own."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class AdapterRefused(Exception):
    """The model server cannot serve this adapter; the message is its own."""


class ModelServer:
    """The model server beside us (or the gateway's own listener, for completions that go the clients' way)."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url
        self.up = asyncio.Event()
        """Set while the base answers; kept by the pool."""
        self.lock = asyncio.Lock()
        """Held while what is loaded is read and changed."""

    async def models(self) -> set[str]:
        """Names the server answers to."""
        body = await self._call("GET", "/v1/models", LIST_SECONDS)
        try:
            return {str(model["id"]) for model in json.loads(body)["data"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ServerUnreachable(f"the answer to GET /v1/models is no list of models: {body[:200]!r}") from error

    async def complete(self, model: str) -> None:
        """Let a model produce one token."""
        request = {"model": model, "prompt": "Hello", "max_tokens": 1}
        await self._call("POST", "/v1/completions", COMPLETE_SECONDS, request)

    async def chat(self, model: str) -> None:
        """Let a model that chats produce one token."""
        request: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        try:
            await self._call("POST", "/v1/chat/completions", COMPLETE_SECONDS, request | {"max_tokens": 1})
        except ServerRefused as refused:
            if refused.status != HTTPStatus.BAD_REQUEST or THINKERS not in str(refused):
                raise
            # Models that think know the limit by another name, and need room to say anything at all.
            await self._call("POST", "/v1/chat/completions", COMPLETE_SECONDS, request | {THINKERS: 16})

    async def load(self, name: str, path: Path) -> None:
        """Load an adapter. Raises AdapterRefused where it is the adapter's fault.

        An earlier request for it may go on in the server though its answer was lost, with the gateway that waited, or to a time-out:
        this one then waits for it, and is refused because the name is taken.
        """
        try:
            await self._call("POST", "/v1/load_lora_adapter", LOAD_SECONDS, {"lora_name": name, "lora_path": str(path)})
        except ServerRefused as refused:
            if refused.status != HTTPStatus.BAD_REQUEST:
                raise
            if name not in await self.models():
                raise AdapterRefused(str(refused)) from refused

    async def unload(self, name: str) -> None:
        """Unload an adapter."""
        await self._call("POST", "/v1/unload_lora_adapter", LOAD_SECONDS, {"lora_name": name})

    async def _call(self, method: str, path: str, seconds: float, body: dict[str, object] | None = None) -> bytes:
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.request(method, self.url + path, json=body, timeout=timeout) as response:
                answer = await response.read()
        except TimeoutError as error:
            raise ServerUnreachable(f"no answer to {method} {path} in {seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise ServerUnreachable(f"no answer to {method} {path}: {error}") from error
        if response.status >= 400:
            raise ServerRefused(response.status, error_message(answer), error_code(answer))
        return answer


def error_message(body: bytes) -> str:
    """The sentence in an OpenAI error body, or the body as text."""
    text = body.decode(errors="replace")
    try:
        answer = json.loads(text)
        return str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]


def error_code(body: bytes) -> str | None:
    """The code in an OpenAI error body."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None
