"""The public side: an OpenAI-compatible API over what is behind the gateway.

Only the paths below exist; whatever else a model server offers (its admin endpoints above all) cannot be reached.
"""

import time

from aiohttp import web

from finetune_api.pods import ADAPTER_HEADER
from finetune_gateway import metrics
from finetune_gateway.errors import ApiError
from finetune_gateway.rewrite import NotARequest, parse_request
from finetune_gateway.routes import BASE, ModelUnavailable, Route, Routes, UnknownModel
from finetune_gateway.upstream import Call


class Proxy:
    """Handlers for clients."""

    def __init__(self, routes: Routes, base_model: str) -> None:
        self._routes = routes
        self._base_model = base_model
        """What the base is, for /v1/models."""
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
        model = request.match_info["model"]
        self._resolve(request, model, None)
        return web.json_response(self._card(model))

    def _card(self, model: str) -> dict[str, object]:
        card: dict[str, object] = {"id": model, "object": "model", "created": self._created, "owned_by": "finetune.dev"}
        parent = {"parent": BASE} if self._routes.is_public(BASE) else {}
        return card | ({"root": self._base_model} if model == BASE else {"root": model, **parent})

    def _resolve(self, request: web.Request, model: str, user: str | None) -> Route:
        try:
            return self._routes.resolve(model, request.headers, user)
        except UnknownModel as error:
            raise ApiError(404, "model_not_found", str(error), "model") from error
        except ModelUnavailable as error:
            raise ApiError(503, "model_unavailable", str(error), "model") from error

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """A completion, from whoever answers for the model."""
        body = await request.read()
        try:
            wish = parse_request(body)
        except NotARequest as error:
            raise ApiError(400, "invalid_body", str(error)) from error
        model, user = wish["model"], wish.get("user")
        route = self._resolve(request, model, user if isinstance(user, str) else None)
        if self._routes.is_public(model):  # not the server's own names: each digest would be a new time series
            request[metrics.MODEL] = model
        if route.share is not None:
            request[metrics.SHARE] = route.share
            metrics.SHARES.labels(model, route.share).inc()
        with route.target.request():
            return await route.target.upstream.answer(Call(request, body, wish, route.target.name, model))


async def name_share(request: web.Request, response: web.StreamResponse) -> None:
    """Say in the answer which share of a split gave it."""
    if metrics.SHARE in request:
        response.headers[ADAPTER_HEADER] = request[metrics.SHARE]
