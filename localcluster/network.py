"""The bridge pods hang on, the way out for their packets, and the kernel settings both need.

:mod:`localcluster.components` names the bridge to CNI; kube-proxy keeps a table of its own beside ours.
"""

import json
import shutil
from pathlib import Path

from localcluster.layout import BRIDGE, NODE_IP, POD_NETWORK, RUN, SERVICE_NETWORK
from localcluster.shell import run, write

TABLE = "finetune_localcluster"
MODULES = ("overlay", "br_netfilter", "nf_tables", "nft_masq")
# What we, the kubelet and kube-proxy change; `down` puts the old values back.
SETTINGS = (
    "net/ipv4/ip_forward",
    "net/bridge/bridge-nf-call-iptables",
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
)
NEEDED = {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}
_BEFORE = RUN / "sysctl-before.json"


def up() -> None:
    """Make bridge, masquerading and kernel settings right."""
    if shutil.which("modprobe"):
        for module in MODULES:  # one that is built into the kernel is no module: the settings below are the check
            run("modprobe", "--quiet", module, check=False)
    if not _BEFORE.exists():
        write(_BEFORE, json.dumps({name: _setting(name).read_text().strip() for name in SETTINGS}))
    for name, value in NEEDED.items():
        _set(name, value)
    if not Path(f"/sys/class/net/{BRIDGE}").exists():
        run("ip", "link", "add", BRIDGE, "type", "bridge")
    if NODE_IP not in run("ip", "-4", "addr", "show", "dev", BRIDGE):
        run("ip", "addr", "add", f"{NODE_IP}/{POD_NETWORK.partition('/')[2]}", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    # Only rewritten on the way out: a machine without a default route would refuse Service addresses before that.
    run("ip", "route", "replace", SERVICE_NETWORK, "dev", BRIDGE)
    if TABLE not in run("nft", "list", "tables", "ip"):
        run(
            "nft",
            "-f",
            "-",
            stdin=f"""
            table ip {TABLE} {{
                chain postrouting {{
                    type nat hook postrouting priority srcnat;
                    ip saddr {POD_NETWORK} ip daddr != {POD_NETWORK} masquerade
                }}
            }}""",
        )


def remove_services() -> None:
    """Remove what kube-proxy wrote."""
    _remove_tables("table ip kube-proxy", "table ip6 kube-proxy")


def down() -> None:
    """Leave no interface and no rule; the kernel settings as they were found."""
    _remove_tables(f"table ip {TABLE}")
    for port in Path(f"/sys/class/net/{BRIDGE}/brif").glob("*"):
        run("ip", "link", "del", port.name, check=False)  # gone with its network namespace in the meantime
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        run("ip", "link", "del", BRIDGE)
    if _BEFORE.exists():
        for name, value in json.loads(_BEFORE.read_text()).items():
            _set(name, value)
        _BEFORE.unlink()


def _remove_tables(*tables: str) -> None:
    there = run("nft", "list", "tables").splitlines() if shutil.which("nft") else []
    for table in tables:
        if table in there:
            run("nft", "delete", *table.split())


def _setting(name: str) -> Path:
    return Path("/proc/sys") / name


def _set(name: str, value: str) -> None:
    if _setting(name).read_text().strip() != value:
        _setting(name).write_text(value)
