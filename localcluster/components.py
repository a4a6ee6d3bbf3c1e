"""What each component is started with. Pure but for writing configuration files under CONFIG.

Read by :mod:`localcluster.node`, which starts them in order.
"""

import json
from pathlib import Path

from localcluster import pki
from localcluster.build import binary
from localcluster.daemons import Daemon
from localcluster.layout import (
    BRIDGE, CONFIG, CONTAINERD_SOCKET, DNS_IP, ETCD, ETCD_PEER, NODE, NODE_IP, POD_NETWORK, REGISTRY, RUN,
    SERVICE_NETWORK, STATE,
)
from localcluster.shell import write


def daemon(component: str, files: tuple[Path, ...] = (), /, **flags: object) -> Daemon:
    """A Kubernetes component: True, numbers and text become flags."""
    words = (f"--{flag.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"
             for flag, value in flags.items())
    # binary(...) and not the link in BIN: a rebuilt binary changes the command and so restarts the component.
    return Daemon(component, (str(binary("kubernetes")), component, *words), files)


def etcd() -> Daemon:
    return daemon(
        "etcd",
        name=NODE,
        data_dir=STATE / "etcd",
        listen_client_urls=ETCD, advertise_client_urls=ETCD,
        listen_peer_urls=ETCD_PEER, initial_advertise_peer_urls=ETCD_PEER, initial_cluster=f"{NODE}={ETCD_PEER}",
        # Survives every crash but the machine's own, and the disk no longer bounds API writes.
        unsafe_no_fsync=True,
    )


def apiserver() -> Daemon:
    return daemon(
        "kube-apiserver",
        (pki.SERVER.path, pki.CA, pki.SERVICE_ACCOUNT_KEY),
        etcd_servers=ETCD,
        bind_address=NODE_IP, advertise_address=NODE_IP, secure_port=6443,
        tls_cert_file=pki.SERVER.path, tls_private_key_file=pki.SERVER.key, client_ca_file=pki.CA,
        kubelet_client_certificate=pki.KUBELET_CLIENT.path, kubelet_client_key=pki.KUBELET_CLIENT.key,
        kubelet_certificate_authority=pki.CA, kubelet_preferred_address_types="InternalIP",
        service_account_issuer="https://kubernetes.default.svc.cluster.local",
        service_account_signing_key_file=pki.SERVICE_ACCOUNT_KEY, service_account_key_file=pki.SERVICE_ACCOUNT_KEY,
        service_cluster_ip_range=SERVICE_NETWORK,
        authorization_mode="Node,RBAC", enable_admission_plugins="NodeRestriction",
        allow_privileged=True,
    )


def controller_manager() -> Daemon:
    kubeconfig = pki.CONTROLLERS.kubeconfig
    return daemon(
        "kube-controller-manager",
        (kubeconfig,),
        kubeconfig=kubeconfig, authentication_kubeconfig=kubeconfig, authorization_kubeconfig=kubeconfig,
        bind_address="127.0.0.1",
        root_ca_file=pki.CA, cluster_signing_cert_file=pki.CA, cluster_signing_key_file=pki.CA_KEY,
        service_account_private_key_file=pki.SERVICE_ACCOUNT_KEY, use_service_account_credentials=True,
        leader_elect=False,
        # The default of 20 requests/s caps everything at 3.3 jobs/s.
        kube_api_qps=500, kube_api_burst=1000,
    )


def scheduler() -> Daemon:
    config = _config("scheduler.json", {
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(pki.SCHEDULER.kubeconfig), "qps": 500, "burst": 1000},
        "leaderElection": {"leaderElect": False},
    })
    kubeconfig = pki.SCHEDULER.kubeconfig
    return daemon("kube-scheduler", (config, kubeconfig), config=config, bind_address="127.0.0.1",
                  authentication_kubeconfig=kubeconfig, authorization_kubeconfig=kubeconfig)


def proxy() -> Daemon:
    config = _config("kube-proxy.json", {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        # One nftables table of its own: `down` deletes that table, where iptables chains would be strewn about.
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(pki.PROXY.kubeconfig)},
        "clusterCIDR": POD_NETWORK, "hostnameOverride": NODE, "nodeIPOverride": [NODE_IP],
        "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0},  # leaves the machine's sysctl alone
    })
    return daemon("kube-proxy", (config, pki.PROXY.kubeconfig), config=config)


def kubelet() -> Daemon:
    root = STATE / "kubelet"
    config = _config("kubelet.json", {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": str(pki.CA)}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki.KUBELET.path), "tlsPrivateKeyFile": str(pki.KUBELET.key),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs", "failSwapOn": False, "failCgroupV1": False,
        "clusterDNS": [DNS_IP], "clusterDomain": "cluster.local", "resolvConf": _resolv_conf(),
        "podLogsDir": str(STATE / "pod-logs"), "volumePluginDir": str(root / "volume-plugins"),
        "makeIPTablesUtilChains": False, "maxPods": 200, "serializeImagePulls": False,
        # One machine that is used for other things too: images are the cache, and a fullish disk is no reason to evict.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%",
                         "nodefs.inodesFree": "1%"},
        "kubeAPIQPS": 200, "kubeAPIBurst": 400,
    })
    return daemon("kubelet", (config, pki.KUBELET.kubeconfig), config=config, root_dir=root,
                  kubeconfig=pki.KUBELET.kubeconfig, hostname_override=NODE, node_ip=NODE_IP)


def containerd(pause_image: str) -> Daemon:
    """Beside any containerd of the machine: own root, state, socket and network configuration."""
    networks = STATE / "cni"
    write(networks / "10-bridge.conflist", json.dumps({
        "cniVersion": "0.4.0", "name": NODE,
        "plugins": [
            # Masquerading is network.py's, in one rule, instead of a chain for every pod.
            {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True,
             "ipam": {"type": "host-local", "dataDir": str(RUN / "addresses"),
                      "ranges": [[{"subnet": POD_NETWORK, "gateway": NODE_IP}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        ],
    }, indent=1))
    config = CONFIG / "containerd.toml"
    write(config, f'''version = 2
root = "{STATE}/containerd"
state = "{RUN}/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = "{STATE}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause_image}"
# Where root lacks CAP_SYS_RESOURCE (a sandboxed VM), every pod fails without this.
restrict_oom_score_adj = true
# All mounts lie under our own folders, so that `down` finds them.
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
# The registry keeps the layers as they were pushed: no third copy of 6 GB.
discard_unpacked_layers = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{networks}"
''')
    return Daemon("containerd", ("/usr/bin/containerd", "--config", str(config)), (config,))


def registry() -> Daemon:
    config = CONFIG / "registry.json"
    write(config, json.dumps({
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(STATE / "registry")}, "delete": {"enabled": True}},
        "http": {"addr": REGISTRY.replace("localhost", "127.0.0.1"), "secret": NODE},
    }, indent=1))
    return Daemon("registry", (str(binary("registry")), "serve", str(config)), (config,))


def _config(name: str, content: dict[str, object]) -> Path:
    write(CONFIG / name, json.dumps(content, indent=1))
    return CONFIG / name


def _resolv_conf() -> str:
    """The resolver pods inherit; systemd-resolved's stub on loopback would be out of their reach."""
    real = Path("/run/systemd/resolve/resolv.conf")
    return str(real) if real.exists() else "/etc/resolv.conf"
