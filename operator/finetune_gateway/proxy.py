"""The public side: an OpenAI-compatible API over the model server beside us.

Only the paths below exist; whatever else the model server offers (its admin endpoints above all) cannot be reached.
"""

import contextlib
import json
import time
from collections.abc import Callable

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from finetune_api.v1alpha1.references import ModelRef
from finetune_gateway import metrics
from finetune_gateway.errors import ApiError, error_body
from finetune_gateway.rewrite import NotARequest, Renamer, parse_request
from finetune_gateway.routes import BASE, ModelUnavailable, Routes, Target, UnknownModel

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
}
NOT_RETURNED = HOP_BY_HOP | {"content-length", "date", "server"}
LOST = "the model server came back without it; it is being loaded again"


class Proxy:
    """Handlers for clients."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server_url: str,
        routes: Routes,
        base_model: ModelRef,
        look: Callable[[], None],
    ) -> None:
        self._session = session
        self._server_url = server_url
        self._routes = routes
        self._base_model = base_model
        self._look = look
        self._created = int(time.time())

    def paths(self) -> list[web.RouteDef]:
        """Everything a client can reach."""
        return [
            web.get("/v1/models", self.list_models),
            web.get("/v1/models/{model:.+}", self.get_model),
            web.post("/v1/completions", self.forward),
            web.post("/v1/chat/completions", self.forward),
        ]

    async def list_models(self, request: web.Request) -> web.Response:
        """The base and every public name that answers."""
        return web.json_response({"object": "list", "data": [self._card(model) for model in self._routes.public()]})

    async def get_model(self, request: web.Request) -> web.Response:
        """One model."""
        self._resolve(request.match_info["model"])
        return web.json_response(self._card(request.match_info["model"]))

    def _card(self, model: str) -> dict[str, object]:
        card: dict[str, object] = {"id": model, "object": "model", "created": self._created, "owned_by": "finetune.dev"}
        return card | ({"root": self._base_model.uri} if model == BASE else {"root": model, "parent": BASE})

    def _resolve(self, model: str) -> Target:
        try:
            return self._routes.resolve(model)
        except UnknownModel as error:
            raise ApiError(404, "model_not_found", str(error), "model") from error
        except ModelUnavailable as error:
            raise ApiError(503, "model_unavailable", str(error), "model") from error

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """A completion: the public name in, the loaded name to the server, the public name back."""
        body = await request.read()
        try:
            wish = parse_request(body)
        except NotARequest as error:
            raise ApiError(400, "invalid_body", str(error)) from error
        model = wish["model"]
        target = self._resolve(model)
        if target.name != model or model == BASE:  # not the server's own names: each digest would be a new time series
            request[metrics.MODEL] = model
        if target.name != model:
            body = json.dumps(wish | {"model": target.name}).encode()
        headers = kept(request.headers, NOT_SENT)
        headers["Accept-Encoding"] = "identity"  # names are replaced in the answer's text
        with target.request():
            try:
                async with self._session.post(
                    self._server_url + request.path, data=body, headers=headers, timeout=UPSTREAM_TIMEOUT
                ) as upstream:
                    if upstream.content_type == "text/event-stream":
                        return await self._stream(request, upstream, Renamer(target.name, model))
                    return await self._whole(upstream, Renamer(target.name, model))
            except (aiohttp.ClientError, TimeoutError) as error:
                self._look()
                raise ApiError(503, "server_unavailable", f"The model server does not answer: {error}") from error

    async def _whole(self, upstream: aiohttp.ClientResponse, renamer: Renamer) -> web.Response:
        body = await upstream.read()
        if upstream.status == 404:  # the server has no such model, but had
            self._look()
            raise ApiError(503, "model_unavailable", f"The model `{renamer.public}` cannot answer now: {LOST}", "model")
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
                self._look()
                broken = error_body(503, "server_unavailable", f"The model server broke off: {error}")
                await response.write(b"data: " + json.dumps(broken).encode() + b"\n\n")
            await response.write_eof()
        return response


def kept(headers: CIMultiDictProxy[str], dropped: set[str]) -> CIMultiDict[str]:
    """Headers that belong to the message, not to one connection."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)
