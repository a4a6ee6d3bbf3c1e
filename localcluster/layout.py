"""Where the cluster lives on the machine and which addresses it uses. Read by every other module.

One fixed place outside any checkout, so that a second clone meets the same cluster.
"""

import os
from pathlib import Path
from string import Template

CHECKOUT = Path(__file__).resolve().parent.parent
HERE = CHECKOUT / "localcluster"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator"

NAME = "finetune-localcluster"
STATE = Path("/var/lib") / NAME
RUN = Path("/run") / NAME
LOGS = STATE / "logs"
PKI = STATE / "pki"
CONFIG = STATE / "config"
BIN = STATE / "bin"
KUBECONFIG = STATE / "kubeconfig"
LOCK = STATE / "lock"
DIGESTS = STATE / "images.json"
CONTAINERD_SOCKET = RUN / "containerd.sock"

# What `down` keeps: unpacked images, the registry's blobs, buildah's layers, logs.
CACHED = ("containerd", "registry", "buildah", "logs", "images.json", "lock")

NODE = "localcluster"
BRIDGE = "finetune0"
POD_NETWORK = "10.244.0.0/24"
# The API server must not advertise a loopback address, so it binds to the bridge's.
NODE_IP = "10.244.0.1"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
API_SERVER = f"https://{NODE_IP}:6443"
# Unusual ports: an etcd or a registry of somebody else may run on the machine.
ETCD = "http://127.0.0.1:23790"
ETCD_PEER = "http://127.0.0.1:23800"
REGISTRY = "localhost:5050"
ETCD_HEALTH = f"{ETCD}/health"
KUBELET_HEALTH = "http://127.0.0.1:10248/healthz"


def filled(name: str, **values: object) -> str:
    """A file of config/ with this module's constants, and the values given, in their places."""
    constants = {key: value for key, value in globals().items() if key.isupper()}
    return Template((HERE / "config" / name).read_text()).substitute(constants, **values)
