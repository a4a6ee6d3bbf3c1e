"""Bring the cluster up and down: the order of the steps, and what "ready" means after each.

Every step makes one thing right and does nothing when it already is, so `up` can be killed anywhere and run again.
"""

import contextlib
import fcntl
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

from localcluster import addons, build, components, images, network, pki
from localcluster.addons import kubectl
from localcluster.daemons import Daemon, log_tail, running, start
from localcluster.layout import API_SERVER, BIN, NODE, REGISTRY, RUN
from localcluster.shell import Failure, run, wait_until


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one `up` or `down` at a time, from whichever clone."""
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up() -> None:
    """Make the whole cluster right."""
    build.install_packages()
    build.install_commands()
    network.up()
    pki.create()
    _run(components.registry(), lambda: _answers(f"http://{REGISTRY}/v2/"), "its API to answer")
    pinned = images.publish(images.infrastructure())
    _run(components.etcd(), lambda: _answers(f"{components.ETCD}/health"), "etcd to be healthy")
    _run(components.apiserver(), lambda: _answers(f"{API_SERVER}/readyz"), "/readyz to say ok")
    for daemon in (components.controller_manager(), components.scheduler(), components.proxy()):
        start(daemon)
    _run(components.containerd(pinned["pause"]), lambda: bool(run(BIN / "ctr", "version", check=False)), "its socket")
    _run(components.kubelet(), node_is_ready, "the node to be Ready")
    addons.apply_dns(pinned["coredns"])
    _run(components.proxy(), addons.dns_answers, "cluster DNS to answer through its Service")
    _run(components.controller_manager(), default_account_exists, "the default service account")


def node_is_ready() -> bool:
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return kubectl("get", "node", NODE, "-o", f"jsonpath={path}", check=False) == "True"


def default_account_exists() -> bool:
    return bool(kubectl("get", "serviceaccount", "default", "-o", "name", check=False))


def _run(daemon: Daemon, is_ready: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Start it and wait until it is ready; fail at once, with its log, when it ends before."""
    def ready_or_dead() -> bool:
        if daemon.mark not in running().values():
            raise Failure(f"{daemon.name} ended")
        return is_ready()

    start(daemon)
    try:
        wait_until(ready_or_dead, what, seconds)
    except Failure as failure:
        raise Failure(f"{daemon.name}: {failure}\n{log_tail(daemon)}\n"
                      "Run the same command again; if it fails the same way, `python3 -m localcluster down` first."
                      ) from failure


def _answers(url: str) -> bool:
    context = ssl.create_default_context(cafile=str(pki.CA)) if url.startswith("https") else None
    if context:
        context.load_cert_chain(pki.ADMIN.path, pki.ADMIN.key)
    handlers = [urllib.request.ProxyHandler({})] + ([urllib.request.HTTPSHandler(context=context)] if context else [])
    with contextlib.suppress(urllib.error.URLError, http.client.HTTPException, OSError):
        with urllib.request.build_opener(*handlers).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    return False


def status() -> list[str]:
    """Which components run, and what the node says of itself."""
    marks = {mark.partition(":")[0] for mark in running().values()}
    names = ("registry", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy",
             "containerd", "kubelet")
    lines = [f"{name:24} {'running' if name in marks else 'not running'}" for name in names]
    if "kube-apiserver" in marks:
        lines += ["", *kubectl("get", "nodes,pods", "--all-namespaces", check=False).splitlines()]
    return lines
