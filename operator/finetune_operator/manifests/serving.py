"""A pool's objects: model server pods with the gateway beside each (in front of a provider the gateway alone), their
configuration, and the Services. Pure.

Nothing in the pod template depends on which adapters are wanted, so adding one restarts nothing.
"""

import hashlib
import json
import math
from dataclasses import dataclass

from finetune_api import pods
from finetune_api.model import amount
from finetune_api.pods import DesiredPool
from finetune_api.v1alpha1.references import ModelRef, SecretRef
from finetune_api.v1alpha1.runtime import ProviderRuntime, TransformersRuntime
from finetune_operator.cache import POOL_LABEL, Manifest
from finetune_operator.manifests import pod
from finetune_operator.settings import Settings

CONFIG_KEY = "pool.json"
MAX_LORA_RANK = 64
MAX_ADAPTERS = 2 * pods.MAX_POOL_ADAPTERS
"""Of the server: while digests change, each adapter is there twice."""
SERVER: Manifest = {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}
"""No CPU limit: idle cores are used, and a new image rolls out on a small node that is half busy."""
SMALL: Manifest = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
"""Gateway and fetch: no CPU limit, which would cost latency."""
GRACE_SECONDS = 120
"""The gateway turns unready and drains for at most 65 s; then the server, being a sidecar, is told to stop."""
STARTUP_SECONDS = 1800
"""Longest loading of a base model."""

ASK_HEALTH = f"""
import sys, urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:{pods.SERVER_PORT}/health", timeout=8)
except OSError as error:
    sys.exit(str(error))
"""
"""A kubelet's HTTP probe cannot reach loopback; this needs nothing but the image's Python."""


@dataclass(frozen=True)
class ServerPool:
    """What AdapterDeployments must have in common to share pods; never crosses namespaces."""

    namespace: str
    pool: str
    base_model: ModelRef | None
    """With the credentials to read it; None: the models are a provider's."""
    runtime: TransformersRuntime | ProviderRuntime
    secret_ref: SecretRef | None
    """Credentials to read adapters, or to call the provider."""
    service_account: str | None

    @property
    def name(self) -> str:
        """Name of its Deployment, ConfigMap and Service: other settings are another pool."""
        secret, account = self.secret_ref and self.secret_ref.name, self.service_account
        base = self.base_model and self.base_model.wire()
        identity = [self.namespace, self.pool, base, self.runtime.wire(), secret, account]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return f"pool-{self.pool}-{digest[:10]}"


def owner_reference(body: Manifest, *, controller: bool = False) -> Manifest:
    """One of possibly many owners; the object goes when the last of them is gone."""
    meta = body["metadata"]
    owner = {"apiVersion": body["apiVersion"], "kind": body["kind"], "name": meta["name"], "uid": meta["uid"]}
    return {**owner, "controller": True} if controller else owner


def deployment(pool: ServerPool, replicas: int, owners: list[Manifest], settings: Settings) -> Manifest:
    """The server pods."""
    labels = pod.common_labels(pool=pool.name)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(pool, pool.name, owners),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {POOL_LABEL: pool.name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels}, "spec": _pod(pool, settings)},
        },
    }


def config_map(pool: ServerPool, desired: DesiredPool, owners: list[Manifest], settings: Settings) -> Manifest:
    """pool.json: what the gateways shall serve until the operator tells them itself."""
    data = {CONFIG_KEY: desired.model_dump_json(by_alias=True, exclude_none=True)}
    if settings.report_ca is not None:
        data[pod.REPORT_CA_KEY] = settings.report_ca
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(pool, pool.name, owners), "data": data}


def service(pool: ServerPool, name: str, owners: list[Manifest]) -> Manifest:
    """A Service in front of the pool's gateways: the pool's own, or one of an AdapterDeployment's name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(pool, name, owners),
        "spec": {
            "selector": {POOL_LABEL: pool.name},
            "ports": [{"name": "http", "port": 80, "targetPort": pods.GATEWAY_PORT, "protocol": "TCP"}],
        },
    }


def _metadata(pool: ServerPool, name: str, owners: list[Manifest]) -> Manifest:
    return {
        "name": name,
        "namespace": pool.namespace,
        "labels": pod.common_labels(pool=pool.name),
        "ownerReferences": owners,
    }


def _pod(pool: ServerPool, settings: Settings) -> Manifest:
    of_base = pool.base_model.secret_ref if pool.base_model else None
    secret_volumes, secret_mounts = pod.secret_volumes({ref.name for ref in (of_base, pool.secret_ref) if ref})
    path = pods.POOL_REPORT_PATH.format(namespace=pool.namespace, name=pool.name)
    env, report_volumes, report_mounts = pod.report_channel(settings, path, pool.name)
    # The whole ConfigMap but the CA, as a folder: with a subPath the file would never change.
    items = [{"key": CONFIG_KEY, "path": CONFIG_KEY}]
    config = {"name": "config", "configMap": {"name": pool.name, "items": items, "defaultMode": 0o444}}
    mounts = [*secret_mounts, *report_mounts]
    return {
        **pod.pod_spec(pool.runtime.pod, pool.service_account),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        **_containers(pool, env, mounts, secret_mounts, settings),
        "volumes": [config, *_scratch(pool), *secret_volumes, *report_volumes],
    }


def _containers(
    pool: ServerPool, env: list[Manifest], mounts: list[Manifest], secret_mounts: list[Manifest], settings: Settings
) -> Manifest:
    """The gateway, and before it what it needs; a provider's models need nothing else."""
    if isinstance(pool.runtime, ProviderRuntime):
        return {"containers": [_gateway([], env, mounts, settings)]}
    rank = str(pool.runtime.max_lora_rank or MAX_LORA_RANK)
    shared = [_mount("models", pods.MODELS_DIR, read_only=True), _mount("adapters", pods.ADAPTERS_DIR)]
    return {
        # The server is a sidecar: it stops after the gateway has drained, not together with it.
        "initContainers": [_fetch(secret_mounts, settings), _server(pool.runtime, rank, settings)],
        "containers": [_gateway(["--max-lora-rank", rank], env, [*shared, *mounts], settings)],
    }


def _scratch(pool: ServerPool) -> list[Manifest]:
    names = ("tmp",) if isinstance(pool.runtime, ProviderRuntime) else ("models", "adapters", "tmp")
    return [{"name": name, "emptyDir": {}} for name in names]


CONFIG_MOUNT = {"name": "config", "mountPath": pods.POOL_FILE.rsplit("/", 1)[0], "readOnly": True}
TMP_MOUNT = {"name": "tmp", "mountPath": "/tmp"}
HOME = {"name": "HOME", "value": "/tmp"}


def _mount(volume: str, path: str, *, read_only: bool = False) -> Manifest:
    return {"name": volume, "mountPath": path, **({"readOnly": True} if read_only else {})}


def _container(name: str, image: str, args: list[str]) -> Manifest:
    return {
        "name": name,
        "image": image,
        "args": args,
        "securityContext": pod.CONTAINER_SECURITY,
        "terminationMessagePath": pods.TERMINATION_LOG,
        "terminationMessagePolicy": "File",
    }


def _fetch(secret_mounts: list[Manifest], settings: Settings) -> Manifest:
    """Downloads and verifies the base model."""
    return {
        **_container("fetch", settings.operator_image, ["finetune_gateway", "fetch"]),
        "env": [HOME],
        "resources": SMALL,
        "volumeMounts": [CONFIG_MOUNT, TMP_MOUNT, _mount("models", pods.MODELS_DIR), *secret_mounts],
    }


def _server(runtime: TransformersRuntime, rank: str, settings: Settings) -> Manifest:
    """The model server: sees the model and the adapters, no secret, no token; listens on loopback only."""
    args = {
        "--model": f"{pods.MODELS_DIR}/base",
        "--adapter-root": pods.ADAPTERS_DIR,
        "--served-model-name": pods.BASE_MODEL_NAME,
        "--host": "127.0.0.1",
        "--port": str(pods.SERVER_PORT),
        "--max-lora-rank": rank,
        "--max-adapters": str(MAX_ADAPTERS),
    }
    resources = pod.resources(runtime.resources, SERVER)
    probe = {"exec": {"command": ["python", "-c", ASK_HEALTH]}, "timeoutSeconds": 10}
    return {
        **_container(
            "server",
            runtime.image or settings.trainer_image,
            ["finetune_server", *(part for pair in args.items() for part in pair)],
        ),
        "restartPolicy": "Always",
        "env": [HOME, {"name": "OMP_NUM_THREADS", "value": str(whole_cores(resources["requests"]["cpu"]))}],
        "resources": resources,
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": STARTUP_SECONDS // 2},
        "livenessProbe": {**probe, "periodSeconds": 30, "failureThreshold": 4},
        "volumeMounts": [
            TMP_MOUNT,
            _mount("models", pods.MODELS_DIR, read_only=True),
            _mount("adapters", pods.ADAPTERS_DIR, read_only=True),
        ],
    }


def _gateway(flags: list[str], env: list[Manifest], mounts: list[Manifest], settings: Settings) -> Manifest:
    """The only way in: traffic, probes, adapters, reports."""
    pod_name = {"name": pods.POD_NAME_ENV, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    return {
        **_container("gateway", settings.operator_image, ["finetune_gateway", "serve", *flags]),
        "env": [HOME, pod_name, *env],
        "ports": [{"name": "http", "containerPort": pods.GATEWAY_PORT}],
        "resources": SMALL,
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 2, "timeoutSeconds": 2},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5},
        "volumeMounts": [CONFIG_MOUNT, TMP_MOUNT, *mounts],
    }


def whole_cores(cpu: str) -> int:
    """Threads for a CPU quantity: 1 for "500m", 4 for "3.5"."""
    return max(1, math.ceil(amount(cpu)))
