"""Take away what a cluster leaves on the machine: containers, mounts, cgroups, folders.

Written for the worst case, a cluster whose processes were all killed; :mod:`localcluster.node` uses it for every case.
"""

import contextlib
import os
import shutil
import signal
from functools import partial
from pathlib import Path

from localcluster.daemons import running, signal_if, stop
from localcluster.layout import BIN, CACHED, NODE, RUN, STATE
from localcluster.shell import run, wait_until

_CGROUPS = Path("/sys/fs/cgroup")
_POD_CGROUP = "kubepods"


def kill_containers() -> None:
    """End every process in a pod, then containerd's shims."""
    wait_until(_pods_are_empty, "the processes in pods to end", 30)
    for pid, mark in running().items():
        if mark == "shim":
            stop(pid, mark)


def _pods_are_empty() -> bool:
    left = [int(pid) for group in _pod_cgroups() for pid in _words(group / "cgroup.procs")]
    for pid in left:
        signal_if(pid, partial(_is_in_pod, pid), signal.SIGKILL)
    return not left


def _is_in_pod(pid: int) -> bool:
    return any(_POD_CGROUP in word for word in _words(Path(f"/proc/{pid}/cgroup")))


def _words(file: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return file.read_text().split()
    return []


def _pod_cgroups() -> list[Path]:
    """The kubelet's cgroups, innermost first: one tree (v2), or one in every controller's hierarchy (v1)."""
    roots = [path for path in (_CGROUPS / _POD_CGROUP, *_CGROUPS.glob(f"*/{_POD_CGROUP}")) if path.is_dir()]
    return [Path(folder) for root in roots for folder, _, _ in os.walk(root, topdown=False)]


def remove_cgroups() -> None:
    """Remove the kubelet's cgroups, empty by now."""
    for group in _pod_cgroups():
        group.rmdir()


def forget_containers() -> None:
    """Have containerd, which must run, forget every container but keep the images."""
    for name in run(BIN / "ctr", "tasks", "list", "--quiet").split():
        run(BIN / "ctr", "tasks", "delete", "--force", name, check=False)  # may be gone: its shim was killed
    for name in run(BIN / "ctr", "containers", "list", "--quiet").split():
        run(BIN / "ctr", "containers", "delete", name)


def remove_traces() -> None:
    """Unmount and delete everything but the caches; no process of ours may be left."""
    for point in reversed(mount_points()):
        run("umount", "--lazy", point)
    for path in _strays():
        path.unlink(missing_ok=True)
    for path in [RUN, *STATE.iterdir()]:
        if path.name not in CACHED:
            _delete(path)
    # The runtime's own notes on pods, beside the images that stay.
    shutil.rmtree(STATE / "containerd" / "io.containerd.grpc.v1.cri", ignore_errors=True)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def mount_points() -> list[str]:
    """What is mounted below our folders, in the order it was mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]  # a space is written \\040
    return [point for point in points if point.startswith((f"{STATE}/", f"{RUN}/"))]


def _strays() -> list[Path]:
    """Files whose place cannot be configured: shims' sockets, CNI's notes, links to pods' logs."""
    sockets = [
        Path(address.read_text().removeprefix("unix://"))
        for address in (RUN / "containerd").glob("io.containerd.runtime.v2.task/*/*/address")
    ]
    notes = Path("/var/lib/cni/results")
    pods = [file.name.split("-")[1] for file in notes.glob(f"{NODE}-*-eth0")]
    logs = [link for link in Path("/var/log/containers").glob("*.log") if link.readlink().is_relative_to(STATE)]
    return sockets + logs + [file for pod in pods for file in notes.glob(f"*-{pod}-*")]
