"""What each component is started with: its flags here, its configuration file filled in from config/.

Read by :mod:`localcluster.node`, which starts them in order.
"""

from pathlib import Path

from localcluster import layout, pki
from localcluster.build import binary
from localcluster.daemons import Daemon
from localcluster.layout import CONFIG, ETCD, ETCD_PEER, NODE, NODE_IP, SERVICE_NETWORK, STATE
from localcluster.shell import write

_CONTAINERD_CONFIG = CONFIG / "containerd.toml"


def _kubernetes(component: str, *files: Path, **flags: object) -> Daemon:
    """A component of the one Kubernetes binary; its flags as keywords."""
    words = (
        f"--{flag.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"
        for flag, value in flags.items()
    )
    # The binary and not the link to it: rebuilt, it has another path, and so the component is started again.
    return Daemon(component, (str(binary("kubernetes")), component, *words), files)


def _config(name: str, **values: object) -> Path:
    write(CONFIG / name, layout.filled(name, **values))
    return CONFIG / name


def registry() -> Daemon:
    config = _config("registry.yaml", REGISTRY_PORT=layout.REGISTRY.rpartition(":")[2])
    quiet = (("OTEL_TRACES_EXPORTER", "none"),)
    return Daemon("registry", (str(binary("registry")), "serve", str(config)), (config,), quiet)


def etcd() -> Daemon:
    urls = dict.fromkeys(("listen_client_urls", "advertise_client_urls"), ETCD)
    peer_urls = dict.fromkeys(("listen_peer_urls", "initial_advertise_peer_urls"), ETCD_PEER)
    cluster = f"default={ETCD_PEER}"
    # Without fsync it survives every crash but the machine's own, and the disk no longer bounds API writes.
    return _kubernetes(
        "etcd", data_dir=STATE / "etcd", **urls, **peer_urls, initial_cluster=cluster, unsafe_no_fsync=True
    )


def apiserver() -> Daemon:
    key = pki.SERVICE_ACCOUNT_KEY
    serving = {"tls_cert_file": pki.SERVER.path, "tls_private_key_file": pki.SERVER.key, "client_ca_file": pki.CA}
    to_kubelet = {
        "kubelet_client_certificate": pki.KUBELET_CLIENT.path,
        "kubelet_client_key": pki.KUBELET_CLIENT.key,
        "kubelet_certificate_authority": pki.CA,
        "kubelet_preferred_address_types": "InternalIP",
    }
    accounts = {
        "service_account_issuer": "https://kubernetes.default.svc.cluster.local",
        "service_account_signing_key_file": key,
        "service_account_key_file": key,
    }
    address = {"bind_address": NODE_IP, "advertise_address": NODE_IP, "service_cluster_ip_range": SERVICE_NETWORK}
    admission = {"authorization_mode": "Node,RBAC", "enable_admission_plugins": "NodeRestriction"}
    flags = {
        "etcd_servers": ETCD,
        "allow_privileged": True,
        **address,
        **serving,
        **to_kubelet,
        **accounts,
        **admission,
    }
    return _kubernetes("kube-apiserver", pki.SERVER.path, pki.CA, key, **flags)


def controller_manager() -> Daemon:
    return _kubernetes(
        "kube-controller-manager",
        pki.CONTROLLERS.kubeconfig,
        **_identity(pki.CONTROLLERS),
        root_ca_file=pki.CA,
        cluster_signing_cert_file=pki.CA,
        cluster_signing_key_file=pki.CA_KEY,
        service_account_private_key_file=pki.SERVICE_ACCOUNT_KEY,
        use_service_account_credentials=True,
        flex_volume_plugin_dir=STATE / "volume-plugins",
        leader_elect=False,
        # The default of 20 requests/s caps everything at 3.3 jobs/s.
        kube_api_qps=500,
        kube_api_burst=1000,
    )


def scheduler() -> Daemon:
    config = _config("scheduler.yaml")
    identity = _identity(pki.SCHEDULER)
    del identity["kubeconfig"]  # in the configuration file
    return _kubernetes("kube-scheduler", config, pki.SCHEDULER.kubeconfig, config=config, **identity)


def proxy() -> Daemon:
    config = _config("kube-proxy.yaml")
    return _kubernetes("kube-proxy", config, pki.PROXY.kubeconfig, config=config)


def kubelet() -> Daemon:
    # The resolver pods inherit; systemd-resolved's stub on loopback would be out of their reach.
    resolved = Path("/run/systemd/resolve/resolv.conf")
    config = _config("kubelet.yaml", RESOLV_CONF=resolved if resolved.exists() else "/etc/resolv.conf")
    kubeconfig = pki.KUBELET.kubeconfig
    node = {"hostname_override": NODE, "node_ip": NODE_IP, "root_dir": STATE / "kubelet"}
    return _kubernetes("kubelet", config, kubeconfig, config=config, kubeconfig=kubeconfig, **node)


def containerd() -> Daemon:
    return Daemon("containerd", ("/usr/bin/containerd", "--config", str(_CONTAINERD_CONFIG)), (_CONTAINERD_CONFIG,))


def containerd_is_configured() -> bool:
    """Whether a containerd of ours may have run."""
    return _CONTAINERD_CONFIG.exists()


def configure_containerd(pause_image: str) -> None:
    """Write what containerd and CNI read."""
    write(STATE / "cni" / "10-bridge.conflist", layout.filled("bridge.conflist"))
    _config(_CONTAINERD_CONFIG.name, PAUSE_IMAGE=pause_image)


def _identity(certificate: pki.Certificate) -> dict[str, object]:
    flags = ("kubeconfig", "authentication_kubeconfig", "authorization_kubeconfig")
    return {**dict.fromkeys(flags, certificate.kubeconfig), "bind_address": "127.0.0.1"}
