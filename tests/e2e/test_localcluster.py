"""The local cluster itself: up, killed, up again, down. Needs root and the cached binaries, no network.

Runs beside the cluster that is in use, on a machine of its own: own processes, network, mounts, cgroups, and own
folders where the cluster's state lies. Nothing of the cluster is faked.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

CHECKOUT = Path(__file__).parents[2]
CGROUPS = Path("/sys/fs/cgroup")
STATE = "/var/lib/finetune-localcluster"
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
ANNOTATION = "jsonpath={..annotations.kept}"
SETTINGS = ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")

# What pid 1 of the machine does: hide the mounts of the cluster outside, mount what is its own, wait.
BOOT = f"""
set -e
mount --make-rprivate /
awk '$5 ~ /finetune-localcluster/ {{print $5}}' /proc/self/mountinfo | tac | xargs -r -n1 umount --lazy
umount --recursive /sys/fs/cgroup
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /sys/fs/cgroup
for one in {" ".join(CONTROLLERS)}; do
  mkdir /sys/fs/cgroup/$one
  mount -t cgroup -o $one cgroup /sys/fs/cgroup/$one
done
mkdir -p {STATE} /var/lib/cni /var/log/containers
mount --bind "$1" {STATE}
for folder in /run /var/lib/cni /var/log/containers; do mount -t tmpfs tmpfs $folder; done
ip link set lo up
echo booted
while :; do sleep infinity; done  # not exec: bash reaps what the cluster orphans
"""


class Machine:
    """A Linux machine made of namespaces, with this machine's file system but for the cluster's folders."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.switch_on()

    def switch_on(self) -> None:
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--cgroup", "--mount-proc", "--kill-child"]
        self.process = subprocess.Popen(
            [*command, "bash", "-c", BOOT, "bash", str(self.state)],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_own_cgroup,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "booted\n"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        self.pid = children.split()[0]
        self.handle = os.pidfd_open(int(self.pid))

    def switch_off(self) -> None:
        """Kill pid 1, which ends only after every process of the machine."""
        signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        assert select.select([self.handle], [], [], 30)[0]
        os.close(self.handle)
        self.process.wait()

    def run(self, *command: str, cwd: Path = CHECKOUT, check: bool = True) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", "--target", self.pid, "--net", "--mount", "--pid", "--cgroup", f"--wd={cwd}"]
        done = subprocess.run([*inside, *command], capture_output=True, text=True, timeout=300, check=False)
        assert not check or done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stderr}"
        return done

    def localcluster(self, command: str, cwd: Path = CHECKOUT) -> str:
        """What it told the user: one line for each thing it had to do."""
        return self.run(sys.executable, "-m", "localcluster", command, cwd=cwd).stderr

    def kubectl(self, *words: str, check: bool = True) -> str:
        done = self.run(f"{STATE}/bin/kubectl", "--kubeconfig", f"{STATE}/kubeconfig", *words, check=check)
        return done.stdout + done.stderr

    def processes(self) -> dict[str, str]:
        """Pid and name of all but pid 1, what it waits for, and the asking ps itself."""
        lines = self.run("ps", "-eo", "pid=,comm=").stdout.splitlines()
        named = dict(line.split(maxsplit=1) for line in lines)
        return {pid: name for pid, name in named.items() if pid != "1" and name not in ("sleep", "ps")}

    def kill(self, is_victim: Callable[[str], bool]) -> None:
        victims = [pid for pid, name in self.processes().items() if is_victim(name)]
        assert victims
        self.run("bash", "-c", f"kill -KILL {' '.join(victims)}", check=False)  # some die with others

    def traces(self) -> dict[str, object]:
        """All that a cluster could leave behind."""
        return {
            "interfaces": self.run("ip", "-brief", "link").stdout,
            "routes": self.run("ip", "route").stdout,
            "mounts": sorted(line.split()[4] for line in self.run("cat", "/proc/1/mountinfo").stdout.splitlines()),
            "nftables": self.run("nft", "list", "ruleset").stdout,
            "iptables": [line for line in self.run("iptables-save").stdout.splitlines() if line[:1] in ":-"],
            "processes": sorted(self.processes().values()),
            "cgroups": self.run("find", str(CGROUPS), "-mindepth", "2", "-type", "d").stdout,
            "run": sorted(set(self.run("ls", "/run").stdout.split()) - {"containerd"}),  # an empty folder
            "notes": self.run("find", "/var/lib/cni", "/var/log/containers", "-not", "-type", "d").stdout,
            "settings": [self.run("cat", f"/proc/sys/{name}").stdout for name in SETTINGS],
        }


def _own_cgroup() -> None:
    for group in _groups():
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (group / name).exists():
                (group / name).write_text((group.parent / name).read_text())
        (group / "cgroup.procs").write_text(str(os.getpid()))


def _groups() -> list[Path]:
    return [CGROUPS / controller / "localcluster-test" for controller in CONTROLLERS]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.geteuid():
        pytest.skip("making a machine of namespaces needs root")
    if not (CGROUPS / "memory").exists():
        pytest.skip("written for cgroup v1 only")
    machine = Machine(tmp_path_factory.mktemp("state"))
    yield machine
    machine.switch_off()
    for group in _groups():
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()


@pytest.fixture(scope="module")
def untouched(machine: Machine) -> dict[str, object]:
    """The machine's traces before the first cluster."""
    return machine.traces()


@pytest.fixture
def up(machine: Machine, untouched: dict[str, object]) -> Machine:
    machine.localcluster("up")
    return machine


def test_up_twice_changes_nothing_even_from_another_clone(up: Machine, tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "localcluster", tmp_path / "localcluster", ignore=shutil.ignore_patterns("__pycache__"))
    before = up.processes()
    assert len(before) > 8
    assert up.localcluster("up") == ""
    assert up.localcluster("up", cwd=tmp_path) == ""
    assert up.processes() == before


def test_it_is_a_real_cluster(up: Machine) -> None:
    assert "linux/amd64" in up.kubectl("-n", "kube-system", "exec", "deploy/coredns", "--", "/coredns", "-version")
    assert "CoreDNS" in up.kubectl("-n", "kube-system", "logs", "deploy/coredns")
    up.kubectl("create", "namespace", "tight")
    up.kubectl("label", "namespace", "tight", "pod-security.kubernetes.io/enforce=restricted")
    assert 'violates PodSecurity "restricted' in up.kubectl("-n", "tight", "run", "loose", "--image=x", check=False)
    assert "no" in up.kubectl(
        "auth", "can-i", "get", "secrets", "--as=system:serviceaccount:tight:default", check=False
    )


@pytest.mark.parametrize(("asked", "valid"), [("reports", True), ("others", False)])
def test_a_token_is_valid_for_its_own_audience_only(up: Machine, tmp_path: Path, asked: str, valid: bool) -> None:
    token = up.kubectl("create", "token", "default", "--audience=reports").strip()
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
    file = tmp_path / "review.json"
    file.write_text(json.dumps({**review, "spec": {"token": token, "audiences": [asked]}}))
    status = json.loads(up.kubectl("create", "-f", str(file), "-o", "json"))["status"]
    assert status.get("authenticated", False) is valid


@pytest.mark.parametrize(
    "is_victim",
    [
        pytest.param(lambda name: True, id="everything"),
        pytest.param(
            lambda name: "containerd" not in name and name not in ("coredns", "pause"), id="all but containers"
        ),
        pytest.param(lambda name: "shim" in name, id="the shims"),
    ],
)
def test_it_comes_up_again_where_processes_were_killed(up: Machine, is_victim: Callable[[str], bool]) -> None:
    up.kubectl("-n", "kube-system", "annotate", "--overwrite", "deployment", "coredns", "kept=yes")
    up.kill(is_victim)
    up.localcluster("up")
    assert up.kubectl("-n", "kube-system", "get", "deployment", "coredns", "-o", ANNOTATION) == "yes"
    up.kubectl("-n", "kube-system", "rollout", "status", "deployment", "coredns", "--timeout=60s")


def test_it_comes_up_again_after_a_power_cut(up: Machine) -> None:
    up.kubectl("-n", "kube-system", "annotate", "--overwrite", "deployment", "coredns", "kept=still")
    up.switch_off()
    up.switch_on()
    up.localcluster("up")
    assert up.kubectl("-n", "kube-system", "get", "deployment", "coredns", "-o", ANNOTATION) == "still"
    up.kubectl("-n", "kube-system", "rollout", "status", "deployment", "coredns", "--timeout=60s")


@pytest.mark.parametrize("was_killed", [False, True])
def test_down_leaves_nothing(up: Machine, untouched: dict[str, object], was_killed: bool) -> None:
    up.kubectl("-n", "kube-system", "scale", "deployment", "coredns", "--replicas=3")
    up.kubectl("-n", "kube-system", "rollout", "status", "deployment", "coredns", "--timeout=60s")
    if was_killed:
        up.kill(lambda name: name != "coredns")
    up.localcluster("down")
    assert up.traces() == untouched


def test_up_can_be_killed_at_any_step(machine: Machine, untouched: dict[str, object]) -> None:
    steps = ("registry", "etcd", "kube-apiserver", "kube-controller-manager", "containerd", "kubelet", "kube-proxy")
    for step in steps:
        script = f"{sys.executable} -m localcluster up 2>&1 | grep -q -m1 'starting {step}'; pkill -KILL -f 'localcluster up'"
        machine.run("bash", "-c", script, check=False)
        assert not [line for line in machine.run("ps", "-eo", "args").stdout.splitlines() if "localcluster up" in line]
    machine.localcluster("up")
    assert machine.localcluster("up") == ""
    machine.localcluster("down")
    assert machine.traces() == untouched
