"""What runs inside the cluster before the first user: cluster DNS."""

import contextlib
import socket
import struct

from localcluster.layout import API_SERVICE_IP, BIN, DNS_IP, KUBECONFIG, filled
from localcluster.shell import run


def kubectl(*words: str, check: bool = True, stdin: str | None = None) -> str:
    """kubectl as the cluster's administrator."""
    return run(BIN / "kubectl", "--kubeconfig", KUBECONFIG, *words, check=check, stdin=stdin)


def apply_dns(image: str) -> None:
    """Install or update CoreDNS."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=filled("coredns.yaml", COREDNS_IMAGE=image))


def dns_answers() -> bool:
    """Whether the cluster's DNS, asked through its Service, knows the API server's Service."""
    name = b"".join(bytes([len(part)]) + part for part in b"kubernetes.default.svc.cluster.local".split(b"."))
    question = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + name + b"\0" + struct.pack(">2H", 1, 1)
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.sendto(question, (DNS_IP, 53))
        return client.recv(512).endswith(socket.inet_aton(API_SERVICE_IP))
    return False
