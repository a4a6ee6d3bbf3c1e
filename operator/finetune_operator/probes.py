"""Liveness, readiness and metrics, on a port of their own.

Live: the event loop answers and the resync loop goes round (kopf itself ends the process when a watcher dies).
Ready: the first listing is done and reports are accepted.
"""

import time
from collections import Counter

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from finetune_operator import metrics
from finetune_operator.plan import Sources
from finetune_operator.watch import Watch

SLACK_SECONDS = 180.0


def application(watch: Watch, sources: Sources) -> web.Application:
    """/healthz, /readyz and /metrics."""

    async def healthz(_: web.Request) -> web.Response:
        age = time.monotonic() - watch.beat
        if watch.listed and age > 2 * sources.settings.resync_seconds + SLACK_SECONDS:
            return web.Response(status=500, text=f"the resync loop has been silent for {age:.0f} s\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if not watch.listed:
            return web.Response(status=503, text="the first listing is not done\n")
        return web.Response(text="ok\n")

    async def scrape(_: web.Request) -> web.Response:
        states = Counter((job.get("status") or {}).get("state", "Pending") for job in sources.cache.all("FineTuneJob"))
        metrics.jobs.clear()
        for state, count in states.items():
            metrics.jobs.labels(state).set(count)
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    return app
