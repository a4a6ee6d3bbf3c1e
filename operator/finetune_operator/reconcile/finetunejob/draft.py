"""The plan while it is being made: the status as it becomes, and what shall be created and deleted.

Local to one reconcile; :meth:`Draft.plan` turns it into the Plan, adds the columns and derives the Events.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from finetune_api.artifacts import job_folder
from finetune_api.conditions import Condition, find, is_true
from finetune_api.model import MAX_SENTENCE
from finetune_api.reasons import Reason, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.finetunejob_status import FineTuneJobStatus, JobError
from finetune_operator.cache import Manifest
from finetune_operator.plan import Event, Plan, Ref, StatusWrite, ref_of
from finetune_operator.reconcile.finetunejob.observation import Observation


def timestamp(time: datetime) -> str:
    """RFC 3339 in UTC, seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """The reverse."""
    return datetime.fromisoformat(text)


@dataclass
class Draft:
    """What was seen, and what is decided so far."""

    seen: Observation
    now: datetime
    job: FineTuneJob
    status: FineTuneJobStatus
    create: list[Manifest] = field(default_factory=list)
    apply: list[Manifest] = field(default_factory=list)
    delete: list[Ref] = field(default_factory=list)
    reads: list[Ref] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    set_now: set[Stage] = field(default_factory=set)
    requeue_after: float | None = None

    @property
    def namespace(self) -> str:
        """Namespace of the job."""
        return str(self.seen.body["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Name of the job."""
        return str(self.seen.body["metadata"]["name"])

    @property
    def uid(self) -> str:
        """uid of the job."""
        return str(self.seen.body["metadata"]["uid"])

    @property
    def folder(self) -> str:
        """Address of what the job stores."""
        return job_folder(self.job.spec.output.uri, self.namespace, self.name, self.uid)

    @property
    def conditions(self) -> list[Condition]:
        """Conditions as they stand."""
        return self.status.conditions or []

    @property
    def _before(self) -> list[Condition]:
        return (self.job.status.conditions if self.job.status else None) or []

    def holds(self, stage: Stage) -> bool:
        """Whether a condition is True."""
        return is_true(self.conditions, stage)

    def update(self, **fields: Any) -> None:
        """Change fields of the status."""
        self.status = self.status.model_copy(update=fields)

    def condition(self, stage: Stage, status: Literal["True", "False", "Unknown"], reason: str, message: str) -> None:
        """Set a condition; its transition time moves only when its status differs from what was seen."""
        old = find(self._before, stage)
        new = Condition(
            type=stage,
            status=status,
            reason=reason,
            message=message[:MAX_SENTENCE],
            last_transition_time=old.last_transition_time if old and old.status == status else timestamp(self.now),
            observed_generation=self.seen.body["metadata"].get("generation", 0),
        )
        others = [condition for condition in self.conditions if condition.type != stage]
        self.update(conditions=sorted([*others, new], key=_order))
        self.set_now.add(stage)

    def stand(self, state: str, message: str) -> None:
        """Say in the columns where the job stands."""
        self.update(state=state, message=message[:MAX_SENTENCE])

    def later(self, seconds: float) -> None:
        """Look again in so many seconds at the latest."""
        seconds = max(seconds, 0.1)
        self.requeue_after = seconds if self.requeue_after is None else min(seconds, self.requeue_after)

    def since(self, time: str) -> float:
        """Seconds since a time of the status."""
        return (self.now - parse_time(time)) / timedelta(seconds=1)

    def answer(self, ref: Ref) -> Any | None:
        """What a read on demand returned; the first time it asks for it, and this plan becomes that question."""
        if ref not in self.seen.answers:
            self.reads.append(ref)
            return None
        return self.seen.answers[ref]

    def warn(self, reason: str, message: str) -> None:
        """An Event of its own, beside those of the conditions."""
        self.events.append(Event(ref_of(self.seen.body), "Warning", reason, message))

    def note(self, reason: str, message: str) -> None:
        """The same where all is well."""
        self.events.append(Event(ref_of(self.seen.body), "Normal", reason, message))

    def fail(self, reason: Reason, message: str) -> None:
        """End the job without success."""
        message = message[:MAX_SENTENCE]
        self.condition(Stage.RUNNING, "False", reason, message)
        self.condition(Stage.FAILED, "True", reason, message)
        self.condition(Stage.STALLED, "True", reason, message)
        self._finish(reason, message)
        self.update(error=JobError(code=reason, message=message))
        self.stand("Failed", message)

    def succeed(self, message: str, reason: str = "Complete") -> None:
        """End the job with success."""
        self.condition(Stage.RUNNING, "False", "Finished", "The train pod has ended.")
        self.condition(Stage.COMPLETE, "True", reason, message)
        self._finish(reason, message)
        self.stand(reason, message)

    def _finish(self, reason: str, message: str) -> None:
        self.condition(Stage.FINISHED, "True", reason, message)
        self.update(completion_time=timestamp(self.now), eta=None)

    def plan(self) -> Plan:
        """The plan."""
        if self.reads:
            return Plan(reads=tuple(dict.fromkeys(self.reads)))
        self._settle_stalled()
        self._have_looked()
        ref = ref_of(self.seen.body)
        return Plan(
            create=tuple(self.create),
            apply=tuple(self.apply),
            delete=tuple(self.delete),
            statuses=(StatusWrite(ref, self.status.wire()),),
            events=(*self._condition_events(ref), *self.events),
            requeue_after=self.requeue_after,
        )

    def _settle_stalled(self) -> None:
        """Whatever was in the way and is no more; a job that has failed stays so for its own reason."""
        failed = find(self.conditions, Stage.FAILED)
        if Stage.STALLED in self.set_now or not self.holds(Stage.STALLED):
            return
        if failed is None or failed.status != "True":
            self.condition(Stage.STALLED, "False", "GoesOn", "What was in the way is gone.")
        else:
            self.condition(Stage.STALLED, "True", failed.reason, failed.message or "")

    def _have_looked(self) -> None:
        """What still stands was looked at with this spec too: kubectl wait takes no condition of an earlier generation."""
        looked = {"observed_generation": self.seen.body["metadata"].get("generation", 0)}
        self.update(conditions=[each.model_copy(update=looked) for each in self.conditions] or None, **looked)

    def _condition_events(self, ref: Ref) -> list[Event]:
        """One Event per condition that has become True, or False for a reason to know."""
        changed = []
        for condition in self.conditions:
            old = find(self._before, condition.type)
            if old is not None and old.status == condition.status:
                continue
            bad = condition.status == BAD.get(condition.type)
            if bad or (condition.status == "True" and condition.type not in QUIET):
                message = condition.message or condition.type
                reason = condition.reason if bad else condition.type
                changed.append(Event(ref, "Warning" if bad else "Normal", reason, message))
        return changed


BAD: dict[str, str] = {
    Stage.FAILED: "True",
    Stage.DEPLOY_CONFLICT: "True",
    Stage.ACCEPTED: "False",
    Stage.DATA_VALIDATED: "False",
    Stage.GATE_PASSED: "False",
}
QUIET = {Stage.FINISHED, Stage.STALLED}  # Complete or Failed says it already


def _order(condition: Condition) -> int:
    """Conditions are listed in the order in which they come true."""
    return list(Stage).index(Stage(condition.type))
