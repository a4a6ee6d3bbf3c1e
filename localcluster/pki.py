"""Certificates, the service account key and kubeconfigs. Made once; `down` throws them away.

Every component has its own identity, so that RBAC and the node authorizer work as on any cluster.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from localcluster.layout import API_SERVER, API_SERVICE_IP, KUBECONFIG, NODE, NODE_IP, PKI
from localcluster.shell import run, write


@dataclass(frozen=True)
class Certificate:
    """A key pair and whom it stands for; names makes it a serving certificate too."""

    file: str
    user: str
    group: str = ""
    names: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return PKI / f"{self.file}.crt"

    @property
    def key(self) -> Path:
        return PKI / f"{self.file}.key"

    @property
    def kubeconfig(self) -> Path:
        return KUBECONFIG if self.file == "admin" else PKI / f"{self.file}.kubeconfig"


CA = PKI / "ca.crt"
CA_KEY = PKI / "ca.key"
SERVICE_ACCOUNT_KEY = PKI / "service-account.key"

_API_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    NODE_IP,
    API_SERVICE_IP,
    "127.0.0.1",
)
SERVER = Certificate("apiserver", "kube-apiserver", names=_API_NAMES)
KUBELET_CLIENT = Certificate("apiserver-kubelet", "kube-apiserver-kubelet", "system:masters")
KUBELET = Certificate("kubelet", f"system:node:{NODE}", "system:nodes", names=(NODE, NODE_IP))
CONTROLLERS = Certificate("controller-manager", "system:kube-controller-manager")
SCHEDULER = Certificate("scheduler", "system:kube-scheduler")
PROXY = Certificate("kube-proxy", "system:kube-proxy")
ADMIN = Certificate("admin", "admin", "system:masters")


def create() -> None:
    """Make what is missing, the kubeconfig of a person last."""
    PKI.mkdir(parents=True, exist_ok=True)
    PKI.chmod(0o700)
    if not CA.exists():
        _key(CA_KEY)
        partial = CA.with_suffix(".partial")
        run(
            "openssl",
            "req",
            "-x509",
            "-new",
            "-key",
            CA_KEY,
            "-days",
            "3650",
            "-subj",
            "/CN=localcluster",
            "-out",
            partial,
        )
        partial.replace(CA)
    if not SERVICE_ACCOUNT_KEY.exists():
        _key(SERVICE_ACCOUNT_KEY)
    for certificate in (SERVER, KUBELET_CLIENT, KUBELET):
        _sign(certificate)
    for certificate in (CONTROLLERS, SCHEDULER, PROXY, KUBELET, ADMIN):
        _sign(certificate)
        write(certificate.kubeconfig, _kubeconfig(certificate), mode=0o600)


def _key(path: Path) -> None:
    partial = path.with_suffix(".partial")
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", partial)
    partial.replace(path)


def _sign(certificate: Certificate) -> None:
    if certificate.path.exists():
        return
    _key(certificate.key)
    group = f"/O={certificate.group}" if certificate.group else ""
    request = run("openssl", "req", "-new", "-key", certificate.key, "-subj", f"{group}/CN={certificate.user}")
    names = ",".join(("IP:" if name[0].isdigit() else "DNS:") + name for name in certificate.names)
    usage = "clientAuth,serverAuth" if names else "clientAuth"
    extensions = PKI / "extensions"
    extensions.write_text(f"extendedKeyUsage={usage}\n" + (f"subjectAltName={names}\n" if names else ""))
    partial = certificate.path.with_suffix(".partial")
    run(
        "openssl",
        "x509",
        "-req",
        "-CA",
        CA,
        "-CAkey",
        CA_KEY,
        "-CAcreateserial",
        "-days",
        "3650",
        "-extfile",
        extensions,
        "-out",
        partial,
        stdin=request,
    )
    partial.replace(certificate.path)


def _kubeconfig(certificate: Certificate) -> str:
    def data(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    cluster = {"server": API_SERVER, "certificate-authority-data": data(CA)}
    user = {"client-certificate-data": data(certificate.path), "client-key-data": data(certificate.key)}
    name = "localcluster"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": certificate.user, "user": user}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": certificate.user}}],
        },
        indent=1,
    )
