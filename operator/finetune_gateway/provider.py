"""A provider's endpoint behind the gateway: what it is asked, what its answers and its failures become.

:mod:`finetune_gateway.openai_provider` and :mod:`finetune_gateway.vertex` are the providers; both answer in the words of
OpenAI's chat completions, the first also in those of its completions.
"""

import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from finetune_gateway.completions import as_chat, as_completion, as_completion_chunk
from finetune_gateway.errors import ApiError
from finetune_gateway.upstream import Call
from finetune_storage.credentials import concealed

Json = dict[str, Any]

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600)
"""A long generation may be silent for minutes."""
CHAT, COMPLETIONS = "chat/completions", "completions"
SECRET_NOT_FOUND = "secret_not_found"
UNREACHABLE = "provider_unavailable"
MAX_SENTENCE = 600
"""Of what a provider said: some answer with a page."""


class ProviderFailure(Exception):
    """The provider's answer is an error, or there is none; the message says whose and what it was."""

    def __init__(
        self, status: int, message: str, code: str = "provider_error", param: str | None = None, retry_after: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def answer(self) -> ApiError:
        """What the client gets: the provider's status, and the sentence in OpenAI's shape."""
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        return ApiError(self.status, self.code, str(self), self.param, headers)


class Provider(Protocol):
    """A service with models of its own. Bodies are OpenAI's, with the provider's name of the model."""

    @property
    def is_chat_only(self) -> bool:
        """It has no completions; they are asked for as chats."""

    async def whole(self, path: str, wish: Json) -> Json:
        """An answer. Raises ProviderFailure, or ApiError for a request it cannot carry out."""

    def stream(self, path: str, wish: Json) -> AsyncGenerator[Json]:
        """An answer's chunks. Raises as :meth:`whole` does."""


class ProviderUpstream:
    """Answers calls with a provider."""

    def __init__(self, provider: Provider, doubt: Callable[[str], None]) -> None:
        self._provider = provider
        self._doubt = doubt
        """Told of the provider's model that did not answer as it should."""

    async def answer(self, call: Call) -> web.StreamResponse:
        """The public name in, the provider's name to it, the public name back."""
        path = call.request.path.removeprefix("/v1/")
        wish = call.wish | {"model": call.name}
        converted = path == COMPLETIONS and self._provider.is_chat_only
        if converted:
            path, wish = CHAT, as_chat(wish)
        try:
            if wish.get("stream"):
                chunks = self._provider.stream(path, wish)
                return await self._stream(call, chunks, as_completion_chunk if converted else unchanged)
            body = await self._provider.whole(path, wish)
        except ProviderFailure as failure:
            self._note(call, failure)
            raise failure.answer() from failure
        return web.json_response((as_completion if converted else unchanged)(body) | {"model": call.public})

    async def _stream(
        self, call: Call, chunks: AsyncGenerator[Json], convert: Callable[[Json], Json]
    ) -> web.StreamResponse:
        """Each chunk as it comes; the headers wait for the first, so that what fails before it has its own status."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})

        async def send(body: bytes) -> None:
            if not response.prepared:
                await response.prepare(call.request)
            await response.write(b"data: " + body + b"\n\n")

        async with contextlib.aclosing(chunks):
            with contextlib.suppress(
                ConnectionResetError
            ):  # the client went away; leaving closes the provider's side too
                try:
                    async for chunk in chunks:
                        if sent := convert(chunk):
                            await send(json.dumps(sent | {"model": call.public}).encode())
                    await send(b"[DONE]")
                except ProviderFailure as failure:
                    if not response.prepared:
                        raise
                    self._note(call, failure)
                    await send(json.dumps(failure.answer().body).encode())
                await response.write_eof()
        return response

    def _note(self, call: Call, failure: ProviderFailure) -> None:
        refused = failure.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
        if refused or failure.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._doubt(call.name)


def unchanged(body: Json) -> Json:
    """A body as it came."""
    return body


@dataclass(frozen=True)
class Account:
    """With whom and as whom."""

    who: str
    """The provider's name in sentences."""
    token: str
    """Bearer token; empty: none is sent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | bool = True
    """True: the usual authorities."""


async def post(session: aiohttp.ClientSession, url: str, account: Account, body: Json) -> aiohttp.ClientResponse:
    """An answer that is none of an error, unread. Raises ProviderFailure."""
    headers = {**account.headers, **({"Authorization": f"Bearer {account.token}"} if account.token else {})}
    try:
        # A redirect could carry the request and its token to somebody else.
        response = await session.post(
            url, json=body, headers=headers, timeout=TIMEOUT, allow_redirects=False, ssl=account.tls
        )
        if response.status < HTTPStatus.MULTIPLE_CHOICES:
            return response
        async with response:
            said = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise unreachable(account.who, error) from error
    raise refusal(response, said, account)


def unreachable(who: str, error: Exception) -> ProviderFailure:
    """No answer, or one that broke off."""
    return ProviderFailure(
        HTTPStatus.BAD_GATEWAY, f"{who} does not answer: {error or type(error).__name__}", UNREACHABLE
    )


def refusal(response: aiohttp.ClientResponse, said: bytes, account: Account) -> ProviderFailure:
    """A provider's error with its status; a redirect is none that a client should follow."""
    status = response.status if response.status >= HTTPStatus.BAD_REQUEST else HTTPStatus.BAD_GATEWAY
    error = error_of(said)
    sentence = str(error.get("message") or said.decode(errors="replace") or response.reason)
    sentence = concealed(sentence, account.token)[:MAX_SENTENCE]
    code, param = error.get("code"), error.get("param")
    code = code if isinstance(code, str) else error.get("status")  # Google's code is the number
    return ProviderFailure(
        status,
        f"{account.who} answered {response.status}: {sentence}",
        code if isinstance(code, str) else "provider_error",
        param if isinstance(param, str) else None,
        response.headers.get("Retry-After", ""),
    )


def error_of(said: bytes) -> Json:
    """The error object in a body, OpenAI's or Google's (which puts a stream's into a list); empty where there is none."""
    try:
        found = json.loads(said)
    except ValueError:
        return {}
    found = found[0] if isinstance(found, list) and found else found
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


async def read(response: aiohttp.ClientResponse, who: str) -> Json:
    """A whole body. Raises ProviderFailure where it is none."""
    try:
        async with response:
            body = json.loads(await response.read())
    except (aiohttp.ClientError, TimeoutError) as error:
        raise unreachable(who, error) from error
    except ValueError as error:
        raise not_json(who) from error
    if not isinstance(body, dict):
        raise not_json(who)
    return body


async def events(response: aiohttp.ClientResponse, who: str) -> AsyncGenerator[Json]:
    """The JSON of server-sent events, without OpenAI's [DONE].

    Raises ProviderFailure where the stream breaks off, or is none: some services answer whole whatever they are asked.
    """
    is_stream = False
    async with contextlib.aclosing(lines(response, who)) as found:
        async for line in found:
            field, _, value = line.strip().partition(b":")
            if field != b"data":
                continue
            is_stream = True
            if value.strip() not in (b"", b"[DONE]"):
                yield event_of(value, who)
    if not is_stream:
        message = f"{who} was asked for a stream of events, and answered with something else"
        raise ProviderFailure(HTTPStatus.BAD_GATEWAY, message)


async def lines(response: aiohttp.ClientResponse, who: str) -> AsyncGenerator[bytes]:
    """The body line by line, however long they are. Raises ProviderFailure where it breaks off."""
    rest = b""
    try:
        async with response:
            async for piece in response.content.iter_any():
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    yield line
            yield rest
    except (aiohttp.ClientError, TimeoutError) as error:
        raise unreachable(who, error) from error


def event_of(value: bytes, who: str) -> Json:
    """The JSON of an event. Raises ProviderFailure for an error in the stream's midst."""
    try:
        event = json.loads(value)
    except ValueError as error:
        raise not_json(who) from error
    if not isinstance(event, dict):
        raise not_json(who)
    if "error" in event:
        message = error_of(value).get("message") or value.decode(errors="replace")
        raise ProviderFailure(HTTPStatus.BAD_GATEWAY, f"{who} broke off: {str(message)[:MAX_SENTENCE]}")
    return event


def not_json(who: str) -> ProviderFailure:
    """It answers 200 with something else."""
    return ProviderFailure(HTTPStatus.BAD_GATEWAY, f"{who} answered with something that is not JSON")
