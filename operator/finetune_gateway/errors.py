"""Errors as OpenAI's clients expect them, for whatever goes wrong on any path; and the count of every answer."""

import logging
import time
from collections.abc import Mapping

from aiohttp import web
from aiohttp.typedefs import Handler

from finetune_gateway import metrics

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""nginx's code for a client that did not wait for the answer."""


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, object]:
    """OpenAI's error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = error_body(status, code, message, param)


async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's answer, or its error as an answer."""
    try:
        return await handler(request)
    except ApiError as error:
        return web.json_response(error.body, status=error.status, headers=error.headers)
    except web.HTTPException as error:
        code = error.reason.lower().replace(" ", "_")
        body = error_body(error.status, code, f"{request.method} {request.path}: {error.text or error.reason}")
        return web.json_response(body, status=error.status)
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        body = error_body(500, "internal_error", f"The gateway failed: {error!r}")
        return web.json_response(body, status=500)


@web.middleware
async def openai_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into answers, and count answers to requests for a model."""
    started, code = time.perf_counter(), CLIENT_GONE
    try:
        response = await answered(request, handler)
        code = response.status
        return response
    finally:
        if request.method == "POST":
            model = request.get(metrics.MODEL, "")
            metrics.REQUESTS.labels(model, code).inc()
            metrics.REQUEST_SECONDS.labels(model).observe(time.perf_counter() - started)
