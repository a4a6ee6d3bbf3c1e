"""What is looked at before deciding about a FineTuneJob: the object, its children, what it refers to, what its pod said."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from finetune_api.pods import Report
from finetune_operator.cache import (
    DEPLOYS,
    JOB_LABEL,
    JOB_UID_LABEL,
    SERVES,
    UPSTREAMS,
    Cache,
    Manifest,
    labels_of,
    named_by,
)
from finetune_operator.manifests.delegate import cancel_name
from finetune_operator.manifests.training import config_name
from finetune_operator.plan import Key, Ref, Sources
from finetune_operator.reports import Received
from finetune_operator.settings import Settings

KIND: Literal["FineTuneJob"] = "FineTuneJob"


@dataclass(frozen=True)
class Observation:
    """One FineTuneJob and everything its next step depends on."""

    settings: Settings
    body: Manifest
    config: Manifest | None
    """The frozen ConfigMap."""
    cancel_config: Manifest | None
    """The ConfigMap of the Job that cancels at a provider."""
    jobs: Mapping[str, Manifest]
    """batch/v1 Jobs of its attempts, by name."""
    pods: tuple[Manifest, ...]
    """Their pods."""
    upstreams: Mapping[str, Manifest]
    """The FineTuneJobs there are of those it waits for, by the reference that names them (UPSTREAMS)."""
    deployment: Manifest | None
    """The AdapterDeployment of deploy.name."""
    users: tuple[Manifest, ...]
    """The AdapterDeployments and FineTuneJobs that name it in a jobRef."""
    report: Received[Report] | None
    """What its pod last said."""
    answers: Mapping[Ref, Any]
    """What was read on demand."""


def observe(sources: Sources, key: Key) -> Observation | None:
    """Collect it from the caches; None: the job is gone, and owner references clean up behind it."""
    cache = sources.cache
    body = cache.get(KIND, key.namespace, key.name)
    if body is None:
        return None
    uid = body["metadata"]["uid"]
    return Observation(
        settings=sources.settings,
        body=body,
        config=cache.get("ConfigMap", key.namespace, config_name(key.name, uid)),
        cancel_config=cache.get("ConfigMap", key.namespace, cancel_name(key.name, uid)),
        jobs={job["metadata"]["name"]: job for job in cache.labelled("Job", key.namespace, JOB_UID_LABEL, uid)},
        pods=tuple(cache.labelled("Pod", key.namespace, JOB_UID_LABEL, uid)),
        upstreams={
            reference: found
            for reference in UPSTREAMS
            if (found := _named(cache, KIND, key.namespace, named_by(body, reference))) is not None
        },
        deployment=_named(cache, "AdapterDeployment", key.namespace, named_by(body, DEPLOYS)),
        users=(*cache.referring("AdapterDeployment", key.namespace, SERVES, key.name), *_waiting(cache, body)),
        report=sources.reports.jobs.get(uid),
        answers=sources.answers,
    )


def keys(sources: Sources, kind: str, body: Manifest) -> Iterator[Key]:
    """A job wakes itself, those that wait for it and those it waits for; a child wakes its job; a deployment the jobs that
    name it and the one it serves."""
    namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
    concerned: list[Manifest] = []
    named: Iterable[str] = ()
    if kind == KIND:
        concerned, named = [body, *_waiting(sources.cache, body)], UPSTREAMS
    elif kind == "AdapterDeployment":
        concerned, named = sources.cache.referring(KIND, namespace, DEPLOYS, name), (SERVES,)
    elif JOB_LABEL in labels_of(body):
        yield Key(KIND, namespace, labels_of(body)[JOB_LABEL])
    yield from (Key(KIND, namespace, each["metadata"]["name"]) for each in concerned)
    yield from (Key(KIND, namespace, found) for reference in named if (found := named_by(body, reference)))


def _waiting(cache: Cache, body: Manifest) -> Iterator[Manifest]:
    """The FineTuneJobs that wait for a job, or did."""
    namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
    return chain.from_iterable(cache.referring(KIND, namespace, reference, name) for reference in UPSTREAMS)


def _named(cache: Cache, kind: str, namespace: str, name: str | None) -> Manifest | None:
    return cache.get(kind, namespace, name) if name else None
