"""Who answers a request: the seam between :mod:`finetune_gateway.proxy` and what is behind the gateway.

Here the one that speaks the clients' own language, the model server or the gateway of another pool: bytes are passed on as
they come, only names are replaced.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from finetune_api.pods import ADAPTER_HEADER
from finetune_gateway.errors import ApiError, error_body
from finetune_gateway.rewrite import Renamer

# A long generation may be silent for minutes; a server that accepts no connection is down.
UPSTREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=600)
HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
NOT_SENT = HOP_BY_HOP | {
    "host",
    "content-length",
    "content-encoding",  # the body was decoded on the way in
    "expect",  # and answered
    "accept-encoding",
    "authorization",  # meant for whoever stands before the gateway
    "cookie",
    ADAPTER_HEADER.lower(),  # said to this gateway
}
NOT_RETURNED = HOP_BY_HOP | {"content-length", "date", "server", ADAPTER_HEADER.lower()}


@dataclass(frozen=True)
class Call:
    """A client's request on its way."""

    request: web.Request
    body: bytes
    wish: dict[str, Any]
    """The body, parsed."""
    name: str
    """The upstream's name of the model."""
    public: str
    """The client's."""


class Upstream(Protocol):
    """Answers calls."""

    async def answer(self, call: Call) -> web.StreamResponse:
        """The answer. Raises ApiError where there is none."""


@dataclass(frozen=True)
class Passthrough:
    """A server that speaks the clients' language."""

    session: aiohttp.ClientSession
    url: str
    """Ends in /v1."""
    who: str = "the model server"
    lost: str = "the model server came back without it; it is being loaded again"
    """What a 404 means: it was there before."""
    headers: Mapping[str, str] = field(default_factory=dict)
    look: Callable[[], None] = lambda: None
    """It did not answer as it should."""

    async def answer(self, call: Call) -> web.StreamResponse:
        """The public name in, the server's name to the server, the public name back."""
        body = call.body if call.name == call.public else json.dumps(call.wish | {"model": call.name}).encode()
        headers = kept(call.request.headers, NOT_SENT)
        headers["Accept-Encoding"] = "identity"  # names are replaced in the answer's text
        headers.update(self.headers)
        renamer = Renamer(call.name, call.public)
        url = self.url + call.request.path.removeprefix("/v1")
        try:
            async with self.session.post(url, data=body, headers=headers, timeout=UPSTREAM_TIMEOUT) as upstream:
                if upstream.content_type == "text/event-stream":
                    return await self._stream(call.request, upstream, renamer)
                return await self._whole(upstream, renamer)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.look()
            message = f"{self.who} does not answer: {error}"
            raise ApiError(503, "server_unavailable", message[0].upper() + message[1:]) from error

    async def _whole(self, upstream: aiohttp.ClientResponse, renamer: Renamer) -> web.Response:
        body = await upstream.read()
        if upstream.status == 404:  # the server has no such model, but had
            self.look()
            message = f"The model `{renamer.public}` cannot answer now: {self.lost}"
            raise ApiError(503, "model_unavailable", message, "model")
        headers = kept(upstream.headers, NOT_RETURNED)
        return web.Response(body=renamer.whole(body), status=upstream.status, headers=headers)

    async def _stream(
        self, request: web.Request, upstream: aiohttp.ClientResponse, renamer: Renamer
    ) -> web.StreamResponse:
        """Pass each event on as it comes; a server that breaks off is reported as an event, never as a normal end."""
        response = web.StreamResponse(status=upstream.status, headers=kept(upstream.headers, NOT_RETURNED))
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):  # the client went away; leaving closes the server's side too
            try:
                async for chunk in upstream.content.iter_any():
                    await response.write(renamer.feed(chunk))
                await response.write(renamer.rest())
            except (aiohttp.ClientPayloadError, TimeoutError) as error:
                self.look()
                message = f"{self.who} broke off: {error}"
                broken = error_body(503, "server_unavailable", message[0].upper() + message[1:])
                await response.write(b"data: " + json.dumps(broken).encode() + b"\n\n")
            await response.write_eof()
        return response


def kept(headers: CIMultiDictProxy[str], dropped: set[str]) -> CIMultiDict[str]:
    """Headers that belong to the message, not to one connection."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)
