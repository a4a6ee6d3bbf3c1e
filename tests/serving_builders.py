"""Builders for serving: objects as the API server has them, and a world to decide in. Defaults fit together."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from finetune_api import API_VERSION
from finetune_api.pods import LoadedAdapter, PoolReport
from finetune_api.v1alpha1.provider import ProviderModel
from finetune_operator.act import contains, merge_patch
from finetune_operator.cache import Cache, Manifest
from finetune_operator.controllers import CONTROLLERS
from finetune_operator.plan import Key, Plan, Sources
from finetune_operator.reports import Received, ReportStore
from finetune_operator.settings import Settings

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
BASE = {"uri": "s3://models/base"}
SETTINGS = Settings(
    trainer_image="trainer:1", operator_image="operator:1", report_url="http://operator.system.svc:8080"
)
versions = count(1)


def digest(letter: str = "a") -> str:
    return "sha256:" + letter * 64


def stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def meta(name: str, **more: Any) -> Manifest:
    known = {"name": name, "namespace": "team", "uid": f"uid-{name}", "creationTimestamp": stamp(START)}
    return known | {"resourceVersion": str(next(versions))} | more


def an_adep(name: str = "support", letter: str = "a", *, job: str | None = None, **spec: Any) -> Manifest:
    """An AdapterDeployment of an uploaded adapter, or of a job's; ``server`` is merged, other keywords replace."""
    adapter = {"jobRef": {"name": job}} if job else {"uri": f"s3://models/{name}", "digest": digest(letter)}
    server = ({} if job else {"baseModel": BASE}) | spec.pop("server", {})
    body = {"adapter": adapter, "server": server} | spec
    return {
        "apiVersion": API_VERSION,
        "kind": "AdapterDeployment",
        "metadata": meta(name, generation=1),
        "spec": body,
    }


def of_provider(
    name: str = "support", provider_model: str = "ft:tuned", server: Manifest | None = None, **spec: Any
) -> Manifest:
    """An AdapterDeployment of a provider's model."""
    runtime = {"runtime": {"provider": {"openai": {"baseUrl": "https://models.example/v1", "baseModel": "gpt"}}}}
    body = {"adapter": {"providerModel": provider_model}, "server": runtime | (server or {})} | spec
    return an_adep(name) | {"spec": body}


def a_job(
    name: str = "tuned", letter: str = "a", *, complete: bool = True, gate: str = "True", **status: Any
) -> Manifest:
    """A FineTuneJob that made an adapter."""
    conditions = [condition("GatePassed", gate, "GateFailed" if gate == "False" else "GatePassed", "Accuracy 0.1")]
    if complete:
        conditions.append(condition("Complete", "True", "Complete", "done"))
    made = {
        "conditions": conditions,
        "state": "Complete" if complete else "Training",
        "message": "step 3",
        "baseModel": BASE | {"digest": digest("e")},
        "artifact": {"kind": "Adapter", "uri": f"s3://models/{name}/adapter", "digest": digest(letter)},
    }
    spec = {
        "baseModel": BASE,
        "dataset": {"train": {"uri": "s3://data/x.jsonl"}},
        "output": {"uri": "s3://models", "secretRef": {"name": "s3"}},
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "metadata": meta(name),
        "spec": spec,
        "status": made | status,
    }


def a_delegated_job(name: str = "tuned", letter: str = "a", *, kind: str = "Vertex", **status: Any) -> Manifest:
    """A FineTuneJob whose model lives at a provider."""
    place = "projects/acme/locations/us-central1"
    vertex = {
        "kind": "Vertex",
        "model": f"{place}/models/7",
        "endpoint": f"{place}/endpoints/9",
        "base_model": "gemini",
    }
    openai = {"kind": "OpenAI", "model": "ft:gpt:1", "base_model": "gpt", "base_url": "https://models.example/v1"}
    made = ProviderModel.model_validate({"job": "j-1", **(vertex if kind == "Vertex" else openai)})
    backend: Manifest = {"openai": {"baseUrl": "https://models.example/v1", "secretRef": {"name": "key"}}}
    if kind == "Vertex":
        staging = {"stagingUri": "gs://rows", "serviceAccountName": "tuner"}
        backend = {"vertex": {"project": "acme", "location": "us-central1", **staging}}
    uri = f"s3://models/{name}/endpoint"
    artifact = {"kind": "Endpoint", "uri": uri, "digest": digest(letter), "provider": made.wire()}
    body = a_job(name, artifact=artifact, baseModel={"uri": f"{kind.lower()}://gemini"}, **status)
    return body | {"spec": body["spec"] | {"backend": backend}}


def condition(type_: str, status: str, reason: str, message: str = "") -> Manifest:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": stamp(START),
        "observedGeneration": 1,
    }


def a_pod(name: str, pool: str, *, ready: bool = True, **status: Any) -> Manifest:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta(name, labels={"finetune.dev/pool": pool}),
        "status": {"phase": "Running", "conditions": conditions} | status,
    }


def said(name: str = "support", letter: str = "a", *, serving: str | None = None, **more: Any) -> LoadedAdapter:
    """A gateway's word about an adapter: loaded, unless told otherwise."""
    known = {"deployment": name, "desired_digest": digest(letter), "state": "Loaded"}
    return LoadedAdapter.model_validate(known | {"digest": digest(serving or letter)} | more)


@dataclass
class World:
    """What the operator knows, and a stand-in for carrying plans out."""

    now: datetime = START + timedelta(minutes=10)
    cache: Cache = field(default_factory=Cache)
    reports: ReportStore = field(default_factory=lambda: ReportStore(since=START))
    settings: Settings = SETTINGS
    uncached: dict[str, Any] = field(default_factory=dict)
    """Objects that are read on demand: ServiceAccount/name, Service/name, Event/pod."""

    def add(self, *bodies: Manifest) -> "World":
        for body in bodies:
            self.cache.store(body["kind"], body)
        return self

    def remove(self, kind: str, name: str) -> None:
        body = self.cache.get(kind, "team", name)
        assert body is not None
        self.cache.remove(kind, body)

    def edit(self, name: str, **spec: Any) -> None:
        """A user's change."""
        body = self.adep(name)
        changed = {
            **body["metadata"],
            "generation": body["metadata"]["generation"] + 1,
            "resourceVersion": str(next(versions)),
        }
        self.add({**body, "metadata": changed, "spec": {**body["spec"], **spec}})

    def report(self, pool: str, pod: str, *adapters: LoadedAdapter) -> None:
        received = Received(self.now, PoolReport(pod=pod, ready=True, adapters=list(adapters)))
        self.reports.pools.setdefault(("team", pool), {})[pod] = received

    def keys(self, kind: str | None = None, name: str | None = None) -> set[Key]:
        """Keys that an event about an object (all objects) wakes."""
        bodies = [(k, b) for k, b in self.cache.kinds() if kind in (None, k) and name in (None, b["metadata"]["name"])]
        return {
            key
            for kind, body in bodies
            for name in SERVING
            for key in CONTROLLERS[name].keys(self.sources(), kind, body)
        }

    def sources(self, answers: dict[Any, Any] | None = None) -> Sources:
        return Sources(self.settings, self.cache, self.reports, answers or {})

    def plan(self, key: Key) -> Plan:
        """The plan of a key, after its questions were answered."""
        answers: dict[Any, Any] = {}
        while True:
            controller = CONTROLLERS[key.kind]
            seen = controller.observe(self.sources(answers), key)
            plan = Plan() if seen is None else controller.reconcile(seen, self.now)
            if not plan.reads:
                return plan
            assert not set(plan.reads) & set(answers), "asks again for what it was told"
            for ref in plan.reads:
                answers[ref] = self.uncached.get(f"{ref.kind}/{ref.name}", [] if ref.kind == "Event" else None)

    def sync(self, *only: Key) -> list[Plan]:
        """Carry out every key's plan (or one's)."""
        plans = []
        for key in sorted(only or self.keys()):
            plan = self.plan(key)
            plans.append(plan)
            if key.kind == "Pool":
                self.reports.desire(key.namespace, key.name, plan.desired)
            for manifest in plan.apply:
                old = self.cache.get(manifest["kind"], "team", manifest["metadata"]["name"])
                if old is None or not contains(old, manifest):
                    self.add({**manifest, "metadata": meta(manifest["metadata"]["name"]) | manifest["metadata"]})
            for ref in plan.delete:
                self.remove(ref.kind, ref.name)
            for write in plan.statuses:
                body = self.adep(write.ref.name)
                if merge_patch(body.get("status") or {}, write.status):
                    changed = {**body["metadata"], "resourceVersion": str(next(versions))}
                    self.add({**body, "metadata": changed, "status": write.status})
        return plans

    def settle(self) -> None:
        """Carry out until nothing changes."""
        for _ in range(5):
            before = [(kind, body["metadata"]["resourceVersion"]) for kind, body in self.cache.kinds()]
            self.sync()
            if before == [(kind, body["metadata"]["resourceVersion"]) for kind, body in self.cache.kinds()]:
                return
        raise AssertionError("does not settle")

    def adep(self, name: str) -> Manifest:
        found = self.cache.get("AdapterDeployment", "team", name)
        assert found is not None
        return found

    def pool_of(self, name: str) -> str:
        return str(self.adep(name)["status"]["pool"])

    def pools(self) -> list[str]:
        return [body["metadata"]["name"] for body in self.cache.all("Deployment")]

    def models(self, pool: str) -> dict[str, str]:
        """Public names a pool's gateways are told, with the digest's first letter."""
        desired = self.reports.desired["team", pool]
        return {adapter.model: adapter.digest[7] for adapter in desired.adapters}

    def ready(self, name: str = "support") -> tuple[str, str, str]:
        """Status, reason and message of Ready, after checking that the three conditions fit together."""
        found = {each["type"]: each for each in self.adep(name)["status"]["conditions"]}
        assert sum(each["status"] == "True" for each in found.values()) == 1, found
        return found["Ready"]["status"], found["Ready"]["reason"], found["Ready"]["message"]

    def is_stalled(self, name: str = "support") -> bool:
        conditions = self.adep(name)["status"]["conditions"]
        return any(each["type"] == "Stalled" and each["status"] == "True" for each in conditions)


SERVING = ("AdapterDeployment", "Pool")
