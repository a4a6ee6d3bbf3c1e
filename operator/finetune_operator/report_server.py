"""Where pods report to: the Kubeflow trainerStatus contract for jobs, the gateways' channel for pools.

Only updates memory and wakes the key. A pod proves with a token of its own audience which pod it is (the Kubeflow server
only checks the namespace, so that a neighbour can fake progress).
"""

import hashlib
import logging
import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from finetune_api.pods import (
    MAX_POOL_REPORT_BYTES,
    MAX_REPORT_BYTES,
    POOL_REPORT_PATH,
    REPORT_AUDIENCE,
    REPORT_PATH,
    PoolReport,
    Report,
)
from finetune_operator import metrics
from finetune_operator.act import utc_now
from finetune_operator.cache import JOB_LABEL, JOB_UID_LABEL, POOL_LABEL, Manifest, labels_of
from finetune_operator.cluster import ApiError, Cluster
from finetune_operator.plan import Key, Sources
from finetune_operator.reports import Received

REVIEW_SECONDS = 60.0
MAX_REVIEWS = 10_000
POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"

M = TypeVar("M", bound=BaseModel)
logger = logging.getLogger(__name__)


class Tokens:
    """TokenReviews, remembered for a minute."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._reviews: dict[bytes, tuple[float, Manifest]] = {}

    async def review(self, token: str) -> Manifest:
        """The TokenReview's status."""
        now = time.monotonic()
        digest = hashlib.sha256(token.encode()).digest()  # nothing of ours keeps a token
        known = self._reviews.get(digest)
        if known is not None and known[0] > now:
            return known[1]
        status = await self._cluster.review_token(token, REPORT_AUDIENCE)
        if len(self._reviews) >= MAX_REVIEWS:
            self._reviews.clear()
        self._reviews[digest] = (now + REVIEW_SECONDS, status)
        return status


class ReportServer:
    """The handlers of both paths."""

    def __init__(self, cluster: Cluster, sources: Sources, wake: Callable[[Key], None]) -> None:
        self._tokens = Tokens(cluster)
        self._sources = sources
        self._wake = wake

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MAX_POOL_REPORT_BYTES, middlewares=[counted])
        app.router.add_post(REPORT_PATH, self.job_report)
        app.router.add_post(POOL_REPORT_PATH, self.pool_report)
        return app

    async def job_report(self, request: web.Request) -> web.Response:
        """Progress of a training pod."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        pod = await self._pod(request)
        job = self._sources.cache.get("FineTuneJob", namespace, name)
        labels = labels_of(pod)
        if job is None or (labels.get(JOB_LABEL), labels.get(JOB_UID_LABEL)) != (name, job["metadata"]["uid"]):
            raise web.HTTPForbidden(text=f"this pod does not belong to FineTuneJob {namespace}/{name}")
        if (request.content_length or MAX_POOL_REPORT_BYTES) > MAX_REPORT_BYTES:
            raise web.HTTPRequestEntityTooLarge(MAX_REPORT_BYTES, request.content_length or 0)
        report = await _body(request, Report)
        self._sources.reports.jobs[job["metadata"]["uid"]] = Received(utc_now(), report)
        self._wake(Key("FineTuneJob", namespace, name))
        return web.json_response({})

    async def pool_report(self, request: web.Request) -> web.Response:
        """What a gateway has loaded; the reply is what it shall load."""
        namespace, pool = request.match_info["namespace"], request.match_info["name"]
        pod = await self._pod(request)
        name = pod["metadata"]["name"]
        if labels_of(pod).get(POOL_LABEL) != pool:
            raise web.HTTPForbidden(text=f"this pod does not belong to pool {namespace}/{pool}")
        report = await _body(request, PoolReport)
        if report.pod != name:
            raise web.HTTPForbidden(text=f"the report is about pod {report.pod}, the token is of pod {name}")
        known = self._sources.reports.of_pool(namespace, pool).get(name)
        self._sources.reports.pools.setdefault((namespace, pool), {})[name] = Received(utc_now(), report)
        if known is None or known.report != report:  # every 2 s; most say the same as before
            self._wake(Key("Pool", namespace, pool))
        desired = self._sources.reports.desired.get((namespace, pool))
        if desired is None:
            raise web.HTTPServiceUnavailable(text=f"nothing is known of pool {namespace}/{pool} yet")
        return web.json_response(desired.wire())

    async def _pod(self, request: web.Request) -> Manifest:
        """The pod that speaks, a watched one of ours in the namespace of the path."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            raise web.HTTPUnauthorized(text="send the projected token as Authorization: Bearer <token>")
        try:
            status = await self._tokens.review(token)
        except ApiError as error:
            raise web.HTTPServiceUnavailable(text=f"the token cannot be checked now: {error}") from error
        if not status.get("authenticated") or REPORT_AUDIENCE not in (status.get("audiences") or []):
            raise web.HTTPUnauthorized(text=f"the token is not valid for the audience {REPORT_AUDIENCE}")
        user: dict[str, Any] = status.get("user") or {}
        extra = user.get("extra") or {}
        name, uid = (extra.get(POD_NAME) or [""])[0], (extra.get(POD_UID) or [""])[0]
        namespace = request.match_info["namespace"]
        pod = self._sources.cache.get("Pod", namespace, name)
        own_namespace = str(user.get("username", "")).startswith(f"system:serviceaccount:{namespace}:")
        if pod is None or not own_namespace or pod["metadata"]["uid"] != uid:
            raise web.HTTPForbidden(text=f"the token's pod is not one of this operator's in namespace {namespace}")
        return pod


@web.middleware
async def counted(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    """Count answers by code."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        metrics.reports.labels(str(error.status)).inc()
        raise
    metrics.reports.labels(str(response.status)).inc()
    return response


async def _body(request: web.Request, model: type[M]) -> M:
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        raise web.HTTPBadRequest(
            text=f"not a {model.__name__}: {error.error_count()} errors: {error}"[:2000]
        ) from error


async def serve(app: web.Application, port: int, tls: ssl.SSLContext | None = None) -> web.AppRunner:
    """Listen on all addresses until the runner is cleaned up."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host=None, port=port, ssl_context=tls).start()
    return runner
