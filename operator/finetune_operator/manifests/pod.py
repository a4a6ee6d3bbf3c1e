"""What every pod of ours has in common, training and serving: restricted, without an API token, secrets as files."""

from collections.abc import Iterable

from finetune_api import pods
from finetune_api.v1alpha1.references import PodOptions, Resources
from finetune_operator.cache import MANAGED_BY, OPERATOR, Manifest
from finetune_operator.settings import Settings

USER = 10001
WORK_VOLUMES: list[Manifest] = [
    {"name": "work", "emptyDir": {}},
    {"name": "tmp", "emptyDir": {}},
    {"name": "shm", "emptyDir": {"medium": "Memory"}},  # torch's workers exchange tensors there; 64 MiB is the default
]
WORK_MOUNTS: list[Manifest] = [
    {"name": "work", "mountPath": pods.WORK_DIR},
    {"name": "tmp", "mountPath": "/tmp"},
    {"name": "shm", "mountPath": "/dev/shm"},
]
CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
REPORT_CA_KEY = "report-ca.crt"
"""Key of the report server's CA certificate in a pod's ConfigMap."""


def common_labels(**more: str) -> dict[str, str]:
    """Labels of every child: the watches are filtered by managed-by; ``more`` are those of finetune.dev/."""
    own = {f"finetune.dev/{name.replace('_', '-')}": value for name, value in more.items()}
    return {MANAGED_BY: OPERATOR, **own}


def pod_spec(options: PodOptions | None, service_account: str | None) -> Manifest:
    """The part of a pod's spec that is the same everywhere, with what the user may choose."""
    options = options or PodOptions()
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "serviceAccountName": service_account,
        "nodeSelector": options.node_selector,
        "tolerations": [toleration.wire() for toleration in options.tolerations or []] or None,
        "imagePullSecrets": [ref.wire() for ref in options.image_pull_secrets or []] or None,
        "runtimeClassName": options.runtime_class_name,
        "priorityClassName": options.priority_class_name,
    }
    return {key: value for key, value in spec.items() if value is not None}


def secret_volumes(names: Iterable[str]) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts of Secrets by name, each once. Optional: the program itself says which key is missing."""
    volumes, mounts = [], []
    for number, name in enumerate(sorted(set(names))):
        volume = f"secret-{number}"  # a Secret's name may be longer than a volume's
        volumes.append({"name": volume, "secret": {"secretName": name, "optional": True, "defaultMode": 0o440}})
        mounts.append({"name": volume, "mountPath": f"{pods.SECRETS_DIR}/{name}", "readOnly": True})
    return volumes, mounts


def report_channel(
    settings: Settings, path: str, config_map: str
) -> tuple[list[Manifest], list[Manifest], list[Manifest]]:
    """Environment, volumes and mounts with which a pod reports to ``path``; nothing when reporting is off.

    The token has an audience of its own, so that it opens nothing else; ``config_map`` holds the CA under REPORT_CA_KEY.
    """
    if settings.report_url is None:
        return [], [], []
    token = {"serviceAccountToken": {"audience": pods.REPORT_AUDIENCE, "expirationSeconds": 3600, "path": "token"}}
    env = [
        {"name": pods.REPORT_URL_ENV, "value": settings.report_url.rstrip("/") + path},
        {"name": pods.REPORT_TOKEN_ENV, "value": pods.TOKEN_FILE},
    ]
    volumes: list[Manifest] = [{"name": "token", "projected": {"sources": [token], "defaultMode": 0o440}}]
    mounts = [{"name": "token", "mountPath": pods.TOKEN_FILE.rsplit("/", 1)[0], "readOnly": True}]
    if settings.report_ca is not None:
        folder, file = pods.REPORT_CA_FILE.rsplit("/", 1)
        env.append({"name": pods.REPORT_CA_ENV, "value": pods.REPORT_CA_FILE})
        items = [{"key": REPORT_CA_KEY, "path": file}]
        volumes.append({"name": "report-ca", "configMap": {"name": config_map, "items": items, "defaultMode": 0o444}})
        mounts.append({"name": "report-ca", "mountPath": folder, "readOnly": True})
    return env, volumes, mounts


def resources(asked: Resources | None, default: Manifest, **devices: int | None) -> Manifest:
    """The defaults, whose limits may be wider than their requests; what is asked for is both."""
    asked = asked or Resources()
    own = {"cpu": asked.cpu, "memory": asked.memory, **{name: str(n) for name, n in devices.items() if n}}
    own = {name: amount for name, amount in own.items() if amount is not None}
    return {"requests": {**default["requests"], **own}, "limits": {**default["limits"], **own}}
