"""Builders with defaults, named for what they return: a test shows only what matters to it.

:class:`World` plays the API server, the Job controller and the kubelet for FineTuneJobs, in memory: plans are carried out
on a real :class:`Cache`, in the order of their fields. Nothing of the operator is replaced.
"""

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api import API_VERSION
from finetune_api.pods import Prepared, Report, Summary, Trained
from finetune_api.reasons import EXIT_CODES, Reason
from finetune_api.v1alpha1.finetunejob_status import (
    ArtifactStatus,
    Choice,
    DatasetStatus,
    EvaluationStatus,
    GateResult,
    JobError,
    PlanStatus,
    SplitStatistics,
    TrainerMetric,
    TrainerStatus,
)
from finetune_operator.cache import Cache, Manifest
from finetune_operator.controllers import CONTROLLERS
from finetune_operator.plan import Key, Plan, Ref, Sources, ref_of
from finetune_operator.reports import Received, ReportStore
from finetune_operator.settings import Settings

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64
SETTINGS = Settings(
    trainer_image="trainer@sha256:1", operator_image="operator@sha256:1", report_url="http://reports:8080"
)


def a_spec(**fields: Any) -> Manifest:
    """The smallest spec; fields by their wire names."""
    spec: Manifest = {
        "baseModel": {"uri": "s3://models/base", "secretRef": {"name": "base"}},
        "dataset": {"train": {"uri": "s3://data/rows.jsonl", "secretRef": {"name": "data"}}},
        "output": {"uri": "s3://models", "secretRef": {"name": "out"}},
    }
    return {**spec, **fields}


def a_job(name: str = "bot", status: Manifest | None = None, **spec: Any) -> Manifest:
    """A FineTuneJob as the API server returns it."""
    body: Manifest = {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": "team", "uid": f"{name:0<6.6}-uid", "generation": 1},
        "spec": a_spec(**spec),
    }
    if status is not None:
        body["status"] = status
    return body


CHOICES = [
    Choice(field="training.learningRate", value="0.0002", reason="usual"),
    Choice(field="training.epochs", value="3", reason="usual"),
]


def a_summary(stage: str, *, gate_passed: bool = True, kind: str = "Adapter", **besides: Any) -> str:
    """The termination message of a stage that went well."""
    if stage == "Prepare":
        dataset = DatasetStatus(
            format="Messages", splits=[SplitStatistics(name="train", rows=90)], resolved_digest=DIGEST
        )
        return _json(
            Summary(stage="Prepare", prepared=Prepared(dataset=dataset, plan=PlanStatus(choices=CHOICES, steps=30)))
        )
    gate = [GateResult(metric="Accuracy", passed=gate_passed, message="Accuracy 0.8 against 0.5.")]
    evaluation = EvaluationStatus(split="test", rows=10, tuned={"Accuracy": 0.8}, gate=gate)
    artifact = ArtifactStatus.model_validate({"kind": kind, "uri": "s3://models/team/bot/u/adapter", "digest": DIGEST})
    trained = Trained(
        artifact=artifact,
        evaluation=evaluation,
        gate_passed=gate_passed,
        trained_tokens=1000,
        steps=30,
        loss=1.2345,
        **besides,
    )
    return _json(Summary(stage=stage, trained=trained))  # type: ignore[arg-type]


def an_error(stage: str, reason: Reason, message: str = "what was seen") -> str:
    """The termination message of a stage that failed."""
    return _json(Summary(stage=stage, error=JobError(code=reason, message=message)))  # type: ignore[arg-type]


def _json(summary: Summary) -> str:
    return summary.model_dump_json(by_alias=True, exclude_none=True)


def a_report(
    percent: int = 42, loss: float = 1.5, step: int | None = None, eta: int = 720, warning: str | None = None
) -> Report:
    """A progress report."""
    metrics = [TrainerMetric(name="loss", value=str(loss))]
    status = TrainerStatus(
        progress_percentage=percent, estimated_remaining_seconds=eta, metrics=metrics, message=warning
    )
    return Report(trainer_status=status, resumed_from_step=step)


class World:
    """One namespace and its clock."""

    def __init__(self, *bodies: Manifest) -> None:
        self.now = NOW
        self.cache = Cache()
        self.reports = ReportStore(since=NOW)
        self.on_demand: dict[tuple[str, str], Any] = {}
        """What reads find: (kind, name or uid) -> object, or list of Events."""
        self.unseen: list[Manifest] = []
        """Pods the operator's watch has not shown yet."""
        self.log: list[str] = []
        """Every mutating call: verb, kind, name."""
        self.events: list[str] = []
        self._version = 0
        for body in bodies:
            self.put(body)

    # the API server

    def put(self, body: Manifest) -> None:
        """Store an object as the API server would."""
        self._version += 1
        body = copy.deepcopy(body)
        meta = body["metadata"]
        meta.setdefault("uid", f"uid-{self._version}")
        meta.setdefault("creationTimestamp", self.now.strftime("%Y-%m-%dT%H:%M:%SZ"))
        meta["resourceVersion"] = str(self._version)
        self.cache.store(body["kind"], body)

    def remove(self, kind: str, name: str) -> None:
        """Take an object away, with its children as the garbage collector does."""
        body = self.cache.get(kind, "team", name)
        assert body is not None, f"no {kind} {name}"
        self.cache.remove(kind, body)
        for child_kind, child in list(self.cache.kinds()):
            if any(owner["uid"] == body["metadata"]["uid"] for owner in child["metadata"].get("ownerReferences") or []):
                self.remove_child(child_kind, child)

    def remove_child(self, kind: str, child: Manifest) -> None:
        """A pod gets a moment to end; everything else goes at once."""
        if kind == "Pod" and child["status"]["phase"] == "Running":
            until = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
            self.put({**child, "metadata": {**child["metadata"], "deletionTimestamp": until}})
        else:
            self.remove(kind, child["metadata"]["name"])

    def get(self, kind: str, name: str) -> Manifest:
        """An object that must be there."""
        body = self.cache.get(kind, "team", name)
        assert body is not None, f"no {kind} {name}: {[b['metadata']['name'] for b in self.cache.all(kind)]}"
        return body

    def patch_spec(self, name: str = "bot", **fields: Any) -> None:
        """The user edits a FineTuneJob."""
        body = self.get("FineTuneJob", name)
        meta = {**body["metadata"], "generation": body["metadata"]["generation"] + 1}
        self.put({**body, "metadata": meta, "spec": {**body["spec"], **fields}})

    # the operator

    def plan(self, name: str = "bot", kind: str = "FineTuneJob") -> Plan:
        """What the controller decides now, reads answered."""
        controller = CONTROLLERS[kind]
        answers: dict[Ref, Any] = {}
        while True:
            sources = Sources(SETTINGS, self.cache, self.reports, answers)
            seen = controller.observe(sources, Key(kind, "team", name))  # type: ignore[arg-type]
            plan = Plan() if seen is None else controller.reconcile(seen, self.now)
            if not plan.reads:
                return plan
            for ref in plan.reads:
                assert ref not in answers, f"asked twice: {ref}"
                answers[ref] = self._read(ref)

    def _read(self, ref: Ref) -> Any:
        if ref.kind == "Pod":
            return [pod for pod in self.all_pods() if pod["metadata"]["ownerReferences"][0]["uid"] == ref.uid]
        return self.on_demand.get((ref.kind, str(ref.uid) if ref.kind == "Event" else ref.name))

    def all_pods(self) -> list[Manifest]:
        """Pods as the API server has them, seen by the operator or not."""
        return [*self.cache.all("Pod"), *self.unseen]

    def carry_out(self, plan: Plan, calls: int | None = None) -> bool:
        """Carry a plan out, or crash after so many calls. Returns whether it changed anything."""
        changed = False
        actions = [
            *(lambda m=m: self._create(m) for m in plan.create),
            *(lambda m=m: self._apply(m) for m in plan.apply),
            *(lambda r=r: self._delete(r) for r in plan.delete),
            *(lambda e=e: self.events.append(f"{e.type} {e.reason}") for e in plan.events),  # type: ignore[func-returns-value]
            *(lambda w=w: self._status(w.ref, w.status) for w in plan.statuses),
        ]
        for action in actions[:calls]:
            changed = bool(action()) or changed
        return changed

    def settle(self, name: str = "bot") -> Manifest:
        """Reconcile until nothing changes any more; the FineTuneJob's status."""
        for _ in range(20):
            if not self.carry_out(self.plan(name)):
                body = self.cache.get("FineTuneJob", "team", name)
                return (body or {}).get("status") or {}
        raise AssertionError(f"does not come to rest: {self.log[-6:]}")

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)

    def _create(self, manifest: Manifest) -> bool:
        name = manifest["metadata"]["name"]
        existing = self.cache.get(manifest["kind"], "team", name)
        if existing is not None:
            assert existing["metadata"].get("ownerReferences") == manifest["metadata"].get("ownerReferences")
            return False
        self.log.append(f"create {manifest['kind']} {name}")
        self.put(manifest)
        return True

    def _apply(self, manifest: Manifest) -> bool:
        """Server-side apply of a FineTuneJob's finalizers; without any, one that is being deleted goes."""
        meta = manifest["metadata"]
        body = self.get(manifest["kind"], meta["name"])
        assert body["metadata"]["uid"] == meta["uid"]
        self.log.append(f"apply {manifest['kind']} {meta['name']} {meta['finalizers']}")
        self.put({**body, "metadata": {**body["metadata"], "finalizers": meta["finalizers"]}})
        if not meta["finalizers"] and "deletionTimestamp" in body["metadata"]:
            self.remove(manifest["kind"], meta["name"])
        return True

    def delete_job(self, name: str = "bot") -> None:
        """The user deletes a FineTuneJob: it stays until its finalizers are gone."""
        body = self.get("FineTuneJob", name)
        if not body["metadata"].get("finalizers"):
            self.remove("FineTuneJob", name)
            return
        self.put(
            {**body, "metadata": {**body["metadata"], "deletionTimestamp": self.now.strftime("%Y-%m-%dT%H:%M:%SZ")}}
        )

    def _delete(self, ref: Ref) -> bool:
        if self.cache.get(ref.kind, ref.namespace, ref.name) is None:
            return False
        self.log.append(f"delete {ref.kind} {ref.name}")
        self.remove(ref.kind, ref.name)
        return True

    def _status(self, ref: Ref, status: Manifest) -> bool:
        body = self.cache.get(ref.kind, ref.namespace, ref.name)
        if body is None or body.get("status") == status:
            return False
        self.log.append(f"status {ref.kind} {ref.name}")
        self.put({**body, "status": status})
        return True

    # the Job controller and the kubelet

    def run_pod(self, job: str, state: Manifest | None = None, phase: str = "Running") -> Manifest:
        """The pod of a Job, as its container is."""
        owner = ref_of(self.get("Job", job))
        labels = self.get("Job", job)["spec"]["template"]["metadata"]["labels"]
        status = {"name": "trainer", "image": "trainer", "state": state or {"running": {}}}
        pod: Manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{job}-pod",
                "namespace": "team",
                "labels": labels,
                "ownerReferences": [{"uid": owner.uid, "controller": True}],
            },
            "status": {"phase": phase, "containerStatuses": [status]},
        }
        known = self.cache.get("Pod", "team", pod["metadata"]["name"])
        if known is not None:
            pod["metadata"] = {**pod["metadata"], "uid": known["metadata"]["uid"]}
        self.put(pod)
        return self.get("Pod", pod["metadata"]["name"])

    def end_pod(self, job: str, code: int, message: str = "", reason: str = "") -> None:
        """The container ends, and the Job with it."""
        terminated = {"exitCode": code, "message": message, "reason": reason or ("Completed" if code == 0 else "Error")}
        self.run_pod(job, {"terminated": terminated}, "Succeeded" if code == 0 else "Failed")
        self.end_job(job, "Complete" if code == 0 else "Failed")

    def end_job(self, job: str, condition: str) -> None:
        """The Job controller's verdict."""
        body = self.get("Job", job)
        self.put({**body, "status": {"conditions": [{"type": condition, "status": "True"}]}})

    def lose_pod(self, job: str) -> None:
        """The pod is gone without a word, and the Job failed."""
        self.cache.remove("Pod", self.get("Pod", f"{job}-pod"))
        self.end_job(job, "Failed")

    def say(self, report: Report, name: str = "bot") -> None:
        """The pod reports."""
        self.reports.jobs[self.get("FineTuneJob", name)["metadata"]["uid"]] = Received(self.now, report)

    # shortcuts

    def prepared(self, name: str = "bot") -> Manifest:
        """A job whose data is prepared and whose train Job is created."""
        self.settle(name)
        self.end_pod(attempt("Prepare", 1, name), 0, a_summary("Prepare"))
        return self.settle(name)

    def training(self, name: str = "bot") -> Manifest:
        """A job whose train pod runs."""
        self.prepared(name)
        self.run_pod(attempt("Train", 1, name))
        return self.settle(name)


def attempt(stage: str, number: int = 1, name: str = "bot") -> str:
    """Name of an attempt's Job."""
    uid = f"{name:0<6.6}-uid".replace("-", "")[:6]
    return f"{name}-{uid}-{stage.lower()}-{number}"


PREPARE, TRAIN, COLLECT = attempt("Prepare"), attempt("Train"), attempt("Collect")


def ended(world: World, stage: str, outcome: tuple[int, str, str], number: int = 1) -> Manifest:
    """The status after a container's end: its exit code, termination message and reason."""
    code, text, reason = outcome
    world.end_pod(attempt(stage, number), code, text, reason)
    return world.settle()


def upstream_status(kind: str, reason: str, **more: Any) -> Manifest:
    """The status of a job that others wait for, with the one condition that tells how far it is."""
    time = {"lastTransitionTime": "2026-11-23T11:00:00Z"}
    return {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": "why", **time}], **more}


def condition(status: Manifest, kind: str) -> tuple[str, str] | None:
    """(status, reason) of a condition."""
    found = next((each for each in status.get("conditions") or [] if each["type"] == kind), None)
    return (found["status"], found["reason"]) if found else None


def message(status: Manifest, kind: str) -> str:
    """A condition's sentence."""
    return next(str(each["message"]) for each in status["conditions"] if each["type"] == kind)


def exit_code(reason: Reason) -> int:
    """The exit code of a reason."""
    return EXIT_CODES[reason]
