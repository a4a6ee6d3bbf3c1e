"""Models and tuned endpoints of Vertex AI, by generateContent over REST: Gemini's own API, which tuned models have too.

The identity is the tenant's: a credentials file from its Secret, or what the environment gives the pod (workload identity).
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import google.auth
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.auth.transport.requests import Request

from finetune_api.v1alpha1.runtime import VertexProvider
from finetune_gateway.provider import SECRET_NOT_FOUND, Account, Json, ProviderFailure, events, post, read
from finetune_gateway.vertex_messages import answer, chunk, is_blocked, request, usage_chunk, usage_of
from finetune_storage.google_identity import KEY, SCOPES, of_file

MULTI_REGIONS = {"us", "eu"}


class Tokens:
    """Access tokens of the tenant's identity."""

    def __init__(self, secret: Path | None) -> None:
        self._file = secret / KEY if secret else None
        self._loaded: tuple[float, Any] | None = None
        self._lock = asyncio.Lock()

    async def token(self) -> str:
        """A token that is good for minutes. Raises ProviderFailure."""
        async with self._lock:
            try:
                return await asyncio.to_thread(self._token)
            except RefreshError as error:
                raise ProviderFailure(HTTPStatus.UNAUTHORIZED, f"Google refused the credentials: {error}") from error
            except TransportError as error:
                raise ProviderFailure(
                    HTTPStatus.BAD_GATEWAY, f"Google's token service does not answer: {error}"
                ) from error
            except (GoogleAuthError, ValueError) as error:
                message = f"there is no usable identity for Vertex AI: {error}"
                raise ProviderFailure(HTTPStatus.UNAUTHORIZED, message) from error

    def _token(self) -> str:
        credentials = self._credentials()
        if not credentials.valid:
            credentials.refresh(Request())
        return str(credentials.token)

    def _credentials(self) -> Any:
        """Loaded anew when the kubelet has renewed the file."""
        if self._file is None:
            changed = 0.0
        elif self._file.is_file():
            changed = self._file.stat().st_mtime
        else:
            message = f"Secret {self._file.parent.name!r} has no key {KEY}: create it in the deployment's namespace"
            raise ProviderFailure(HTTPStatus.UNAUTHORIZED, message, SECRET_NOT_FOUND)
        if self._loaded is None or self._loaded[0] != changed:
            self._loaded = (changed, of_file(self._file) if self._file else google.auth.default(scopes=SCOPES)[0])
        return self._loaded[1]


class Vertex:
    """One project and location."""

    is_chat_only = True

    def __init__(self, session: aiohttp.ClientSession, settings: VertexProvider, secret: Path | None) -> None:
        self._session = session
        self._settings = settings
        self._url = settings.base_url or address(settings.location)
        self._who = f"The provider at {urlsplit(self._url).netloc}"
        self._tokens = Tokens(secret)

    async def whole(self, path: str, wish: Json) -> Json:
        """One answer."""
        response = await read(await self._post(wish, "generateContent"), self._who)
        self._check(response)
        return answer(response, identity(wish))

    async def stream(self, path: str, wish: Json) -> AsyncGenerator[Json]:
        """Chunks; the last one has the usage, where it was asked for."""
        who, started, usage = identity(wish), set[int](), None
        async with aclosing(events(await self._post(wish, "streamGenerateContent?alt=sse"), self._who)) as found:
            async for response in found:
                self._check(response)
                usage = usage_of(response) or usage
                if response.get("candidates"):
                    yield chunk(response, who, started)
        if (wish.get("stream_options") or {}).get("include_usage"):
            yield usage_chunk(usage, who)

    async def _post(self, wish: Json, verb: str) -> aiohttp.ClientResponse:
        body = request(wish)
        resource = quote(resource_of(wish["model"], self._settings), safe="/@")
        url = f"{self._url.rstrip('/')}/v1/{resource}:{verb}"
        return await post(self._session, url, Account(self._who, await self._tokens.token()), body)

    def _check(self, response: Json) -> None:
        if reason := is_blocked(response):
            message = f"{self._who} does not answer this prompt: {reason}"
            raise ProviderFailure(HTTPStatus.BAD_REQUEST, message, "content_filter", "messages")


def address(location: str) -> str:
    """Where a location's API is."""
    if location == "global":
        return "https://aiplatform.googleapis.com"
    if location in MULTI_REGIONS:
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"


def resource_of(model: str, settings: VertexProvider) -> str:
    """The resource a model's name stands for: a whole resource name, an endpoint's number, publisher/model, or a Gemini."""
    place = f"projects/{settings.project}/locations/{settings.location}"
    if model.startswith("projects/"):
        return model
    if model.isdecimal():
        return f"{place}/endpoints/{model}"
    if model.startswith(("publishers/", "endpoints/")):
        return f"{place}/{model}"
    publisher, _, name = model.rpartition("/")
    return f"{place}/publishers/{publisher or 'google'}/models/{name}"


def identity(wish: Json) -> Json:
    """What all chunks of an answer share."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": wish["model"]}
