"""Who belongs to which pool: AdapterDeployments with their references resolved. Pure.

Used by :mod:`finetune_operator.reconcile.pool` and :mod:`finetune_operator.reconcile.adapterdeployment`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pydantic import ValidationError

from finetune_api.conditions import is_true
from finetune_api.pods import BASE_MODEL_NAME, MAX_POOL_ADAPTERS
from finetune_api.reasons import ServingReason, Stage
from finetune_api.v1alpha1.adapterdeployment import (
    AdapterDeployment,
    AdapterDeploymentSpec,
    AdapterDeploymentStatus,
    ResolvedAdapter,
    Server,
    Share,
    Traffic,
)
from finetune_api.v1alpha1.finetunejob import BackendSpec, FineTuneJob
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus
from finetune_api.v1alpha1.provider import ProviderModel
from finetune_api.v1alpha1.references import ModelRef
from finetune_api.v1alpha1.runtime import OpenAIProvider, ProviderRuntime, TransformersRuntime, VertexProvider
from finetune_operator.cache import Cache, Manifest
from finetune_operator.manifests.serving import ServerPool
from finetune_operator.reconcile import unreadable
from finetune_operator.reconcile.finding import Finding

KIND = "AdapterDeployment"


@dataclass(frozen=True)
class Member:
    """An AdapterDeployment and what it stands for."""

    body: Manifest
    status: AdapterDeploymentStatus
    """As it was last written."""
    model: str
    """Public model name."""
    replicas: int = 1
    traffic: Traffic | None = None
    """How requests for the model are split."""
    adapter: ResolvedAdapter | None = None
    """What is to be served, where that is known."""
    pool: ServerPool | None = None
    """Where, if an adapter is known."""
    finding: Finding | None = None
    """What stands in the way; an adapter resolved earlier may serve meanwhile."""
    is_blocked: bool = False
    """It has no place in its pool: nothing of it is served."""

    @property
    def name(self) -> str:
        """Name of the AdapterDeployment."""
        return str(self.body["metadata"]["name"])

    @property
    def is_left(self) -> bool:
        """It cannot be carried out as it stands: whatever is served of it goes on as it was."""
        return self.pool is None and self.finding is not None and self.finding.reason is ServingReason.UNSUPPORTED

    @property
    def pool_name(self) -> str | None:
        """Name of the pool it is in, or was left in."""
        if self.pool is not None:
            return self.pool.name
        return self.status.pool if self.is_left else None

    @property
    def split(self) -> list[Share]:
        """Shares of the requests; empty: all are this adapter's."""
        return (self.traffic and self.traffic.split) or []

    @property
    def url(self) -> str:
        """Base URL of its Service, for OpenAI clients."""
        return f"http://{self.name}.{self.body['metadata']['namespace']}.svc/v1"

    @property
    def age(self) -> tuple[str, str]:
        """Sorts the oldest first."""
        return str(self.body["metadata"].get("creationTimestamp", "")), self.name


def members(cache: Cache, namespace: str) -> list[Member]:
    """All AdapterDeployments of a namespace that are not being deleted."""
    bodies = [body for body in cache.all(KIND, namespace) if "deletionTimestamp" not in body["metadata"]]
    return [member(body, referenced_job(cache, body)) for body in bodies]


def job_name(body: Manifest) -> str | None:
    """Name in adapter.jobRef."""
    name: str | None = (body["spec"].get("adapter", {}).get("jobRef") or {}).get("name")
    return name


def referenced_job(cache: Cache, body: Manifest) -> Manifest | None:
    """The FineTuneJob of adapter.jobRef, where there is one now."""
    name = job_name(body)
    return cache.get("FineTuneJob", body["metadata"]["namespace"], name) if name else None


def member(body: Manifest, job: Manifest | None) -> Member:
    """An AdapterDeployment with its references resolved; ``job`` is the one it refers to, if that exists."""
    name = body["metadata"]["name"]
    try:
        read = AdapterDeployment.model_validate(body)
    except ValidationError as error:
        return unread(body, Finding(ServingReason.UNSUPPORTED, unreadable.message(error)))
    spec, status, server = read.spec, read.status or AdapterDeploymentStatus(), read.spec.server or Server()
    known = Member(body, status, (spec.traffic and spec.traffic.model) or name, server.replicas or 1, spec.traffic)
    refused = unsupported(spec, server)
    adapter, finding = (None, refused) if refused else resolve(spec, server, status.adapter, job)
    pool = server_pool(body["metadata"]["namespace"], server, adapter) if adapter else None
    found = replace(known, adapter=adapter, pool=pool, finding=finding)
    return replace(found, model=status.model or found.model) if found.is_left else found


def unread(body: Manifest, finding: Finding) -> Member:
    """One stored under another version of the definition; of its status, only what others go by, and unchecked."""
    said = body.get("status") or {}
    status = AdapterDeploymentStatus.model_construct(
        pool=said.get("pool"), model=said.get("model"), ready_replicas=said.get("readyReplicas")
    )
    return Member(body, status, status.model or body["metadata"]["name"], finding=finding)


def unsupported(spec: AdapterDeploymentSpec, server: Server) -> Finding | None:
    """A setting this version does not implement, with what is supported."""
    provider = server.runtime.provider
    wrong = [
        (spec.mode == "Merged", "mode Merged is not supported yet; supported is Adapter"),
        (spec.rollout is not None, "rollout is not supported yet; leave it out: a new adapter takes over at once"),
        (spec.autoscaling is not None, "autoscaling is not supported yet; set server.replicas"),
        (server.runtime.vllm is not None, "runtime vllm is not supported yet; supported are transformers and provider"),
        (
            provider is not None and spec.adapter.uri is not None,
            "runtime provider serves adapter.providerModel or a delegated job; leave it out to serve adapter.uri",
        ),
        (provider is not None and not (provider.openai or provider.vertex), "runtime provider needs openai or vertex"),
    ]
    return next((Finding(ServingReason.UNSUPPORTED, f"{said}.") for is_wrong, said in wrong if is_wrong), None)


def resolve(
    spec: AdapterDeploymentSpec, server: Server, earlier: ResolvedAdapter | None, job: Manifest | None
) -> tuple[ResolvedAdapter | None, Finding | None]:
    """The adapter to serve. A job that is gone, runs again or failed leaves the one resolved before."""
    reference = spec.adapter.job_ref
    if reference is None:
        return stated(spec, server), None
    missing = Finding(ServingReason.WAITING_FOR_JOB, f"FineTuneJob {reference.name} does not exist.")
    found = of_job(job) if job is not None else missing
    if isinstance(found, Finding):
        if earlier is None or earlier.job_name != reference.name:
            return earlier, found
        found = earlier
    served = with_runtime(found, server)
    if isinstance(served, Finding):
        return None, served
    return (served.model_copy(update={"secret_ref": server.secret_ref}) if server.secret_ref else served), None


def stated(spec: AdapterDeploymentSpec, server: Server) -> ResolvedAdapter:
    """The adapter a spec names itself; rules of the CRD say what must be there."""
    if spec.adapter.provider_model is not None:
        return ResolvedAdapter(
            digest=f"sha256:{hashlib.sha256(spec.adapter.provider_model.encode()).hexdigest()}",
            provider_model=spec.adapter.provider_model,
            provider=server.runtime.provider,
            secret_ref=server.secret_ref,
        )
    assert spec.adapter.uri
    assert spec.adapter.digest
    assert server.base_model
    return ResolvedAdapter(
        uri=spec.adapter.uri, digest=spec.adapter.digest, base_model=server.base_model, secret_ref=server.secret_ref
    )


def with_runtime(found: ResolvedAdapter, server: Server) -> ResolvedAdapter | Finding:
    """What a job has made, with who serves it: a delegated job's provider, unless the spec names its address itself."""
    clause = runtime_refusal(server, is_delegated=found.provider is not None)
    if clause is not None:
        return Finding(ServingReason.UNSUPPORTED, f"FineTuneJob {found.job_name} {clause}.")
    asked = server.runtime.provider
    return found.model_copy(update={"provider": asked}) if asked else found


def runtime_refusal(server: Server, *, is_delegated: bool) -> str | None:
    """Why a job's model cannot be served by the runtime that is asked for: what the job does, and what to leave out."""
    asked = server.runtime
    if asked.provider is not None and not is_delegated:
        return "trains in this cluster, and no provider has its model; leave server.runtime.provider out"
    if is_delegated and asked.transformers is not None and asked.transformers != TransformersRuntime():
        return "is delegated: its model runs at the provider; leave server.runtime.transformers out"
    return None


def of_job(body: Manifest) -> ResolvedAdapter | Finding:
    """The adapter a job has made, or why it has none."""
    meta = body["metadata"]
    name = meta["name"]
    try:
        job = FineTuneJob.model_validate(body)
    except ValidationError as error:
        why = unreadable.fields(error)
        return Finding(ServingReason.WAITING_FOR_JOB, f"FineTuneJob {name} cannot be read ({why}).")
    status = job.status
    conditions = (status and status.conditions) or []
    gate = next((each for each in conditions if each.type == Stage.GATE_PASSED), None)
    if gate is not None and gate.status == "False":
        return Finding(
            ServingReason.GATE_FAILED, f"FineTuneJob {name} did not pass its gate, so it is not served: {gate.message}"
        )
    if not (status and is_true(conditions, Stage.COMPLETE) and gate and gate.status == "True" and status.artifact):
        stands = f"{status.state}: {status.message}" if status and status.state else "it has not started"
        return Finding(ServingReason.WAITING_FOR_JOB, f"FineTuneJob {name} is not Complete yet ({stands}).")
    artifact, base = status.artifact, status.base_model
    if artifact.provider is not None:
        return of_provider(artifact, artifact.provider, job.spec.backend or BackendSpec(), meta)
    if artifact.kind == "Model" or base is None or base.uri is None:
        return Finding(
            ServingReason.UNSUPPORTED,
            f"FineTuneJob {name} made a whole model; only adapters can be served yet: use adapter LoRA or QLoRA.",
        )
    return ResolvedAdapter(
        uri=artifact.uri,
        digest=artifact.digest,
        base_model=ModelRef(uri=base.uri, revision=base.revision, digest=base.digest, secret_ref=base.secret_ref),
        job_name=name,
        job_uid=meta["uid"],
        secret_ref=job.spec.output.secret_ref,
    )


def of_provider(artifact: ArtifactStatus, made: ProviderModel, backend: BackendSpec, meta: Manifest) -> ResolvedAdapter:
    """A delegated job's model, served where it lives, with the identity that made it."""
    delegate = backend.vertex or backend.openai
    if backend.vertex is not None:
        vertex = VertexProvider(
            project=backend.vertex.project,
            location=backend.vertex.location,
            base_url=made.base_url,
            base_model=made.base_model,
        )
        provider = ProviderRuntime(vertex=vertex)
    else:
        # What the fine-tuning API makes only chats.
        openai = OpenAIProvider(base_url=made.base_url, base_model=made.base_model, completions="Chat")
        provider = ProviderRuntime(openai=openai)
    return ResolvedAdapter(
        uri=artifact.uri,
        digest=artifact.digest,
        provider_model=made.endpoint or made.model,
        provider=provider,
        job_name=meta["name"],
        job_uid=meta["uid"],
        secret_ref=delegate and delegate.secret_ref,
        service_account_name=delegate and delegate.service_account_name,
    )


def server_pool(namespace: str, server: Server, adapter: ResolvedAdapter) -> ServerPool:
    """The pool an adapter is served in."""
    base = adapter.base_model
    return ServerPool(
        namespace=namespace,
        pool=server.pool or "default",
        base_model=base and base.model_copy(update={"secret_ref": base.secret_ref or adapter.secret_ref}),
        runtime=adapter.provider or server.runtime.transformers or TransformersRuntime(),
        secret_ref=adapter.secret_ref,
        service_account=server.service_account_name or adapter.service_account_name,
    )


def seated(pool: Iterable[Member]) -> Iterator[Member]:
    """Members of one pool, the oldest first, with a finding where there is no room for them."""
    taken = {BASE_MODEL_NAME: "the base model"}
    for each in sorted(pool, key=lambda member: member.age):
        if len(taken) > MAX_POOL_ADAPTERS:
            message = f"The pool serves {MAX_POOL_ADAPTERS} adapters already; choose another server.pool."
            yield replace(each, is_blocked=True, finding=Finding(ServingReason.UNSUPPORTED, message))
        elif each.model in taken:
            message = f"Model name {each.model} is taken by {taken[each.model]} in this pool; set traffic.model."
            yield replace(each, is_blocked=True, finding=Finding(ServingReason.NAME_TAKEN, message))
        else:
            taken[each.model] = f"AdapterDeployment {each.name}"
            yield each
