"""``python -m finetune_operator``: start the controller, end when any part of it ends."""

import asyncio
import logging
import os
import signal
import ssl
from collections.abc import Coroutine
from typing import Any, cast

import kopf

from finetune_operator import probes, report_server, watch
from finetune_operator.act import Actor, utc_now
from finetune_operator.cache import OPERATOR, Cache
from finetune_operator.cluster import connect
from finetune_operator.plan import Sources
from finetune_operator.report_server import ReportServer
from finetune_operator.reports import ReportStore
from finetune_operator.settings import Settings, from_environment
from finetune_operator.workers import Workers

logger = logging.getLogger("finetune_operator")


async def run(settings: Settings) -> None:
    """Run until stopped by a signal; an error in any part ends the process, which is started anew with nothing lost."""
    cluster = await connect()
    sources = Sources(settings, Cache(), ReportStore(since=utc_now()), answers={})
    workers = Workers()
    watcher = watch.Watch(cluster, sources, workers.wake)
    actor = Actor(cluster, sources, watcher.seen)
    server = ReportServer(cluster, sources, workers.wake)
    runners = [
        await report_server.serve(server.application(), settings.report_port, tls(settings)),
        await report_server.serve(probes.application(watcher, sources), settings.probe_port),
    ]
    try:
        await watcher.fill()
        logger.info("listed everything; watching %s", ", ".join(settings.watch_namespaces) or "all namespaces")
        await first_end(
            kopf_operator(watcher, settings),
            workers.run(actor.sync, actor.failed, settings.concurrency),
            watcher.resync(),
        )
    finally:
        for runner in runners:
            await runner.cleanup()
        await cluster.close()


async def kopf_operator(watcher: watch.Watch, settings: Settings) -> None:
    """kopf's part; cancelled by SIGTERM and SIGINT.

    kopf's own way to stop waits five seconds for tasks it did not start, which are all of ours.
    """
    options = kopf.OperatorSettings()
    watch.configure(options)
    ours = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=watch.registry(watcher),
        settings=options,
        standalone=True,
        identity=cast(Any, OPERATOR),  # else made from the user's name, and a pod's user has none
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
    )
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    await kopf.run_tasks(tasks, ignored=ours)


async def first_end(*parts: Coroutine[Any, Any, None]) -> None:
    """Wait for the first part to end, stop the others, raise its error if it had one."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        if not task.cancelled():
            task.result()


def tls(settings: Settings) -> ssl.SSLContext | None:
    """The report server's certificate, where the chart was given one."""
    if settings.report_tls_dir is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.report_tls_dir / "tls.crt", settings.report_tls_dir / "tls.key")
    return context


def main() -> None:
    """Read the environment and run."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    asyncio.run(run(from_environment(os.environ)))


if __name__ == "__main__":
    main()
