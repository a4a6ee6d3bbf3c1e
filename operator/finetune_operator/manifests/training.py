"""A FineTuneJob's objects: the frozen configuration and one batch/v1 Job per attempt at a stage."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_api import API_VERSION, pods
from finetune_api.model import amount
from finetune_api.pods import JobConfig, Stage
from finetune_api.v1alpha1.dataset import Source
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec, KubernetesBackend
from finetune_api.v1alpha1.references import PodOptions, SecretRef
from finetune_operator.cache import Manifest
from finetune_operator.manifests import pod
from finetune_operator.settings import Settings

CONFIG_KEY = "job.json"
CONTAINER = "trainer"
GRACE_SECONDS = 120
"""From SIGTERM to SIGKILL: a step, a checkpoint and its upload."""
GPU = "nvidia.com/gpu"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
"""Given to its pods by the Job controller."""

SMALL: Manifest = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}
"""Prepare and collect: no CPU limit, so that an idle node's cores are used; memory for the tokenizer and the rows' index,
and where a job asks for more, as much as it asks for."""
TRAIN_CPU: Manifest = {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "8Gi"}}


@dataclass(frozen=True)
class Attempt:
    """One run of a stage: what distinguishes its Job from the others of the FineTuneJob."""

    stage: Stage
    number: int
    micro_batch_divisor: int = 1
    """Doubled after each OutOfMemory."""


@dataclass(frozen=True)
class Program:
    """What a pod runs."""

    image: str
    arguments: list[str]
    resources: Manifest
    secrets: frozenset[str]
    config: str | None = None
    """ConfigMap with job.json; left out, the FineTuneJob's."""


def short_uid(uid: str) -> str:
    """Six characters that keep a job apart from earlier ones of the same name."""
    return uid.replace("-", "")[:6]


def config_name(name: str, uid: str) -> str:
    """Name of the ConfigMap with job.json."""
    return f"{name}-{short_uid(uid)}-config"


def attempt_name(name: str, uid: str, stage: Stage, number: int) -> str:
    """Name of an attempt's Job: never used twice."""
    return f"{name}-{short_uid(uid)}-{stage.lower()}-{number}"


def config_map(config: JobConfig, settings: Settings) -> Manifest:
    """The immutable ConfigMap: the spec as written, the base model as resolved, the image."""
    data = {CONFIG_KEY: config.model_dump_json(by_alias=True, exclude_none=True)}
    if settings.report_ca is not None:
        data[pod.REPORT_CA_KEY] = settings.report_ca
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(config, config_name(config.name, config.uid), {}),
        "immutable": True,
        "data": data,
    }


def attempt_objects(config: JobConfig, attempt: Attempt, settings: Settings) -> list[Manifest]:
    """The Job of an attempt; for several pods also the Service by which they find the first."""
    job = attempt_job(config, attempt, settings)
    return [job] if nodes_of(config.spec, attempt.stage) == 1 else [job, _rendezvous(job["metadata"])]


def attempt_job(config: JobConfig, attempt: Attempt, settings: Settings, program: Program | None = None) -> Manifest:
    """The Job of an attempt. No retry of its own but of a single pod after a disruption: every other retry is a new attempt.

    ``program`` left out, it is the trainer."""
    labels = {"stage": attempt.stage.lower(), "attempt": str(attempt.number)}
    name = attempt_name(config.name, config.uid, attempt.stage, attempt.number)
    metadata = _metadata(config, name, labels)
    nodes = nodes_of(config.spec, attempt.stage)
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    # Of several pods none can go on without the others: the first that is lost ends the attempt.
    alone = {"podFailurePolicy": {"rules": [disrupted]}} if nodes == 1 else {"completionMode": "Indexed"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 0,
            "completions": nodes,
            "parallelism": nodes,
            "podReplacementPolicy": "Failed",  # else a second pod starts while the first still writes
            **alone,
            "template": {
                "metadata": {"labels": metadata["labels"]},
                "spec": _pod(config, attempt, settings, program or _trainer(config, attempt)),
            },
        },
    }


def nodes_of(spec: FineTuneJobSpec, stage: Stage) -> int:
    """Pods of a stage."""
    return (kubernetes(spec).nodes or 1) if stage == "Train" else 1


def _rendezvous(metadata: Manifest) -> Manifest:
    """A headless Service that gives the pods of an attempt names, before they are ready too."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {JOB_NAME_LABEL: metadata["name"]},
            "ports": [{"name": "rendezvous", "port": pods.RENDEZVOUS_PORT}],
        },
    }


def _metadata(config: JobConfig, name: str, labels: dict[str, str]) -> Manifest:
    owner = {"apiVersion": API_VERSION, "kind": "FineTuneJob", "name": config.name, "uid": config.uid}
    return {
        "name": name,
        "namespace": config.namespace,
        "labels": pod.common_labels(job=config.name, job_uid=config.uid, **labels),
        "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
    }


def _pod(config: JobConfig, attempt: Attempt, settings: Settings, program: Program) -> Manifest:
    is_prepare = attempt.stage == "Prepare"
    job_name = attempt_name(config.name, config.uid, attempt.stage, attempt.number)
    names = {"subdomain": job_name} if nodes_of(config.spec, attempt.stage) > 1 else {}
    own_config = program.config or config_name(config.name, config.uid)
    items = [{"key": CONFIG_KEY, "path": CONFIG_KEY}]
    file = {"name": "config", "configMap": {"name": own_config, "items": items, "defaultMode": 0o444}}
    mount = {"name": "config", "mountPath": pods.CONFIG_FILE.rsplit("/", 1)[0], "readOnly": True}
    secret_volumes, secret_mounts = pod.secret_volumes(program.secrets)
    source_volumes, source_mounts = _sources(config.spec) if is_prepare else ([], [])
    path = pods.REPORT_PATH.format(namespace=config.namespace, name=config.name)
    env, report_volumes, report_mounts = pod.report_channel(settings, path, own_config)
    container = {
        "name": CONTAINER,
        "image": program.image,
        "args": program.arguments,  # no command: any image can take the trainer's place
        "env": [{"name": "HOME", "value": "/tmp"}, *env],
        "resources": program.resources,
        "securityContext": pod.CONTAINER_SECURITY,
        "terminationMessagePath": pods.TERMINATION_LOG,
        "terminationMessagePolicy": "File",  # falling back to logs would leak rows into the status
        "volumeMounts": [mount, *pod.WORK_MOUNTS, *secret_mounts, *source_mounts, *report_mounts],
    }
    return {
        **pod.pod_spec(*placement(config.spec)),
        **names,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": [file, *pod.WORK_VOLUMES, *secret_volumes, *source_volumes, *report_volumes],
    }


def kubernetes(spec: FineTuneJobSpec) -> KubernetesBackend:
    """The backend's settings; left out, all are left out."""
    return (spec.backend.kubernetes if spec.backend else None) or KubernetesBackend()


def placement(spec: FineTuneJobSpec) -> tuple[PodOptions | None, str | None]:
    """Where the pods run and as whom, whatever the backend."""
    chosen = spec.backend and (spec.backend.vertex or spec.backend.openai)
    backend = chosen or kubernetes(spec)
    return backend.pod, backend.service_account_name


def _trainer(config: JobConfig, attempt: Attempt) -> Program:
    return Program(
        image=config.image,
        arguments=_arguments(config, attempt),
        resources=_resources(kubernetes(config.spec), attempt.stage),
        secrets=frozenset(secret_names(config, attempt.stage)),
    )


def secret_names(config: JobConfig, stage: Stage) -> set[str]:
    """Secrets a stage needs: the dataset's only where rows are read, the output's everywhere."""
    spec = config.spec
    refs: list[SecretRef | None] = [spec.output.secret_ref]
    if stage != "Collect":
        refs.append(config.base_model.secret_ref)
        previous = spec.evaluation.previous if spec.evaluation else None
        refs.append(previous.secret_ref if previous else None)
        refs.append(config.reward_model.secret_ref if config.reward_model else None)
        initial = spec.adapter.initial if spec.adapter else None
        refs.append(initial.secret_ref if initial else None)
    if stage == "Train" and spec.tracking is not None:
        refs += [tracker.secret_ref for tracker in (spec.tracking.mlflow, spec.tracking.wandb) if tracker is not None]
    if stage == "Prepare":
        refs += [source.secret_ref for _, source in _named_sources(spec)]
        refs += [suite.secret_ref for suite in (spec.dataset.quality.suites if spec.dataset.quality else None) or ()]
        refs += [suite.secret_ref for suite in (spec.evaluation.suites if spec.evaluation else None) or ()]
    return {ref.name for ref in refs if ref is not None}


def _named_sources(spec: FineTuneJobSpec) -> Iterator[tuple[str, Source]]:
    for name, source in (
        ("train", spec.dataset.train),
        ("validation", spec.dataset.validation),
        ("test", spec.dataset.test),
        ("mix", spec.dataset.mix.source if spec.dataset.mix else None),
    ):
        if source is not None:
            yield name, source


def _sources(spec: FineTuneJobSpec) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts of sources that are not in object storage; a missing ConfigMap is the program's to report."""
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []
    for name, source in _named_sources(spec):
        volume = f"source-{name}"
        if source.config_map is not None:
            key = source.config_map.key
            items = [{"key": key, "path": key}]
            volumes.append(
                {"name": volume, "configMap": {"name": source.config_map.name, "items": items, "optional": True}}
            )
        elif source.persistent_volume_claim is not None:
            claim = {"claimName": source.persistent_volume_claim.claim_name, "readOnly": True}
            volumes.append({"name": volume, "persistentVolumeClaim": claim})
        else:
            continue
        mounts.append({"name": volume, "mountPath": f"{pods.SOURCES_DIR}/{name}", "readOnly": True})
    return volumes, mounts


def _arguments(config: JobConfig, attempt: Attempt) -> list[str]:
    arguments = ["finetune_trainer", attempt.stage.lower(), "--attempt", str(attempt.number)]
    if attempt.micro_batch_divisor > 1:
        arguments += ["--micro-batch-divisor", str(attempt.micro_batch_divisor)]
    nodes, gpus = nodes_of(config.spec, attempt.stage), kubernetes(config.spec).gpus or 0
    if attempt.stage == "Train" and gpus > 1:
        arguments += ["--processes", str(gpus)]
    if nodes > 1:
        name = attempt_name(config.name, config.uid, attempt.stage, attempt.number)
        arguments += ["--nodes", str(nodes), "--first-node", f"{name}-0.{name}"]
    return arguments


def _resources(backend: KubernetesBackend, stage: Stage) -> Manifest:
    if stage != "Train":
        stated = backend.resources and backend.resources.memory
        return {**SMALL, "limits": {"memory": max(SMALL["limits"]["memory"], stated or "0", key=amount)}}
    return pod.resources(backend.resources, default_resources(backend.gpus or 0), **{GPU: backend.gpus})


def default_resources(gpus: int) -> Manifest:
    """A train pod's. Every GPU has a process of its own, and weights pass through the host's memory on their way to it."""
    if not gpus:
        return TRAIN_CPU
    return {
        "requests": {"cpu": str(4 * gpus), "memory": f"{16 * gpus}Gi"},
        "limits": {"memory": f"{64 * gpus}Gi"},
    }
