"""Bring the cluster up and down: the order of the steps, and what "ready" means after each.

Every step makes one thing right and does nothing when it already is, so `up` can be killed anywhere and run again.
"""

import contextlib
import fcntl
import http.client
import os
import ssl
import urllib.request
from collections.abc import Callable, Iterator

from localcluster import addons, build, cleanup, components, images, network, pki
from localcluster.addons import kubectl
from localcluster.daemons import Daemon, log_tail, running, start, stop_named
from localcluster.layout import API_SERVER, BIN, ETCD_HEALTH, KUBELET_HEALTH, LOCK, NODE, REGISTRY, STATE
from localcluster.shell import Failure, run, say, wait_until


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one command that changes something at a time, from whichever clone."""
    if os.geteuid():
        raise Failure("starting containers needs root: run it as root")
    STATE.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another localcluster command to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up() -> None:
    """Make the whole cluster right."""
    build.install_packages()
    build.install_commands()
    network.up()
    pki.create()
    boot = Boot()
    boot.start(components.registry(), lambda: _answers(f"http://{REGISTRY}/v2/"), "its API to answer")
    pinned = images.publish(images.infrastructure())
    boot.start(components.etcd(), lambda: _answers(ETCD_HEALTH), "it to be healthy")
    boot.start(components.apiserver(), lambda: _answers(f"{API_SERVER}/readyz"), "/readyz to say ok")
    boot.start(components.controller_manager(), default_account_exists, "the default service account")
    components.configure_containerd(pinned["pause"])
    boot.start(components.containerd(), containerd_answers, "its socket to answer")
    boot.start(components.kubelet(), node_is_ready, "the node to be Ready")
    boot.start(components.scheduler(), lambda: True, "")
    addons.apply_dns(pinned["coredns"])
    # After the node, because kube-proxy ends when its node appears.
    boot.start(components.proxy(), addons.dns_answers, "cluster DNS to answer through its Service")


class Boot:
    """The daemons started so far; one that ends, early or late, fails the boot with its own log."""

    def __init__(self) -> None:
        self.started: list[Daemon] = []

    def start(self, daemon: Daemon, is_ready: Callable[[], bool], what: str, seconds: float = 120) -> None:
        """Start it and wait until it is ready."""

        def ready_or_dead() -> bool:
            marks = running().values()
            if dead := next((one for one in self.started if one.mark not in marks), None):
                raise _failure(dead, "it ended")
            return is_ready()

        self.started.append(daemon)
        start(daemon)
        try:
            wait_until(ready_or_dead, what, seconds)
        except TimeoutError as late:
            raise _failure(daemon, str(late)) from None


def _failure(daemon: Daemon, what: str) -> Failure:
    return Failure(
        f"{daemon.name}: {what}\n{log_tail(daemon)}\n"
        "Run the same command again; if it fails the same way, run `python3 -m localcluster down` first."
    )


def down() -> None:
    """Leave no process, mount, interface, rule or cgroup, whatever state the cluster was in; keep the caches."""
    stop_named("kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")
    if components.containerd_is_configured():  # otherwise pods and their rules are those of somebody else's cluster
        cleanup.kill_containers()
        # Even when it was killed: only containerd can forget containers and keep images.
        Boot().start(components.containerd(), containerd_answers, "its socket to answer")
        cleanup.forget_containers()
        stop_named("containerd")
        cleanup.kill_containers()
        cleanup.remove_cgroups()
        network.remove_services()
    stop_named("registry")
    network.down()
    cleanup.remove_traces()


def containerd_answers() -> bool:
    return "Server:" in run(BIN / "ctr", "version", check=False)


def node_is_ready() -> bool:
    """The kubelet's own word too: after a crash the API still holds what it said before."""
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    said = kubectl("get", "node", NODE, "-o", f"jsonpath={path}", check=False)
    return said == "True" and _answers(KUBELET_HEALTH)


def default_account_exists() -> bool:
    return bool(kubectl("get", "serviceaccount", "default", "-o", "name", check=False))


def _answers(url: str) -> bool:
    context = ssl.create_default_context(cafile=str(pki.CA))
    context.load_cert_chain(pki.ADMIN.path, pki.ADMIN.key)
    # No proxy: everything listens on this machine.
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):  # not listening, not ready, or cut off while starting
        return False


def status() -> list[str]:
    """Which components run, and what the node says of itself."""
    marks = {mark.partition(":")[0] for mark in running().values()}
    names = (
        "registry",
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "containerd",
        "kubelet",
    )
    lines = [f"{name:24} {'running' if name in marks else 'not running'}" for name in names]
    if "kube-apiserver" in marks:
        lines += ["", *kubectl("get", "nodes,pods", "--all-namespaces", check=False).splitlines()]
    return lines
