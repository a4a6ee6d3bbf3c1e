"""A FineTuneJob under every order of crashes, lost pods, kills and edits: it always comes to its end, and never runs twice.

Walks are random and seeded; the operator may crash after any of its calls, so that each plan is carried out in part.
"""

import random
from collections.abc import Callable

import pytest

from builders import World, a_job, a_summary, an_error, condition, exit_code
from finetune_api.reasons import Reason
from finetune_operator.reconcile.finetunejob.cause import is_alive

WALKS = 200
STEPS = 40


class Walk:
    """One sequence of operator rounds and faults."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(a_job(maxRetries=20))
        self.faults = 0

    def operator_round(self) -> None:
        """A reconcile that may crash after any of its calls."""
        plan = self.world.plan()
        calls = len(plan.create) + len(plan.delete) + len(plan.events) + len(plan.statuses)
        self.world.carry_out(plan, self.random.choice([calls, calls, self.random.randint(0, calls)]))

    def unfinished(self) -> list[str]:
        """Jobs without an end."""
        return [job["metadata"]["name"] for job in self.world.cache.all("Job") if "status" not in job]

    def start_pod(self) -> None:
        """The kubelet starts a pod."""
        for job in self.unfinished()[:1]:
            self.world.run_pod(job)

    def fault(self) -> None:
        """Something goes wrong with a running attempt."""
        for job in self.unfinished()[:1]:
            if self.faults < 5:
                self.faults += 1
                self.random.choice([self.kill, self.out_of_memory, self.lose_job, self.fail])(job)

    def kill(self, job: str) -> None:
        self.world.end_pod(job, 137, "", "Error")

    def out_of_memory(self, job: str) -> None:
        self.world.end_pod(job, 137, "", "OOMKilled")

    def lose_job(self, job: str) -> None:
        self.world.remove("Job", job)
        self.world.log.remove(f"create Job {job}")  # not yet written down, it may be created again under its name

    def fail(self, job: str) -> None:
        self.world.end_pod(job, exit_code(Reason.STORAGE_UNAVAILABLE), an_error("Train", Reason.STORAGE_UNAVAILABLE))

    def reap(self) -> None:
        """Deleted pods end."""
        for pod in self.world.cache.all("Pod"):
            if "deletionTimestamp" in pod["metadata"]:
                self.world.cache.remove("Pod", pod)

    def toggle_suspend(self) -> None:
        """The user suspends, or resumes."""
        spec = self.world.get("FineTuneJob", "bot")["spec"]
        self.world.patch_spec(suspend=not spec.get("suspend", False))

    def succeed(self) -> None:
        """An attempt does its work; its summary may be lost with its pod."""
        for job in self.unfinished()[:1]:
            stage = job.split("-")[-2].capitalize()
            self.world.end_pod(job, 0, a_summary(stage))
            if self.random.random() < 0.2:
                self.world.cache.remove("Pod", self.world.get("Pod", f"{job}-pod"))

    def pass_time(self) -> None:
        """Some seconds."""
        self.world.wait(self.random.choice([1, 10, 130]))

    def edit_in_between(self) -> None:
        """The user suspends, or resumes, after a Job was created: the status that would have said so is refused."""
        plan = self.world.plan()
        self.world.carry_out(plan, len(plan.create))
        self.toggle_suspend()

    def rest(self) -> None:
        """Nothing happens until the operator has done all there is to do: Suspended then means that nothing runs."""
        status = self.world.settle()
        if condition(status, "Suspended") == ("True", "Suspended"):
            assert self.unfinished() == []

    def check(self) -> None:
        """What must hold after every step."""
        alive = [
            pod for pod in self.world.cache.all("Pod") if is_alive(pod) and "deletionTimestamp" not in pod["metadata"]
        ]
        assert len(alive) <= 1, "two pods of one job at a time"
        created = [line for line in self.world.log if line.startswith("create Job")]
        assert len(created) == len(set(created)), "an attempt was created twice"

    def to_the_end(self) -> None:
        """Without further faults the job ends."""
        if self.world.get("FineTuneJob", "bot")["spec"].get("suspend"):
            self.toggle_suspend()
        for _ in range(12):
            self.world.settle()
            self.reap()
            self.start_pod()
            self.check()
            for job in self.unfinished():
                self.world.end_pod(job, 0, a_summary(job.split("-")[-2].capitalize()))
            self.world.wait(130)


@pytest.mark.parametrize("seed", range(WALKS))
def test_every_walk_ends_complete(seed: int) -> None:
    walk = Walk(seed)
    steps: list[Callable[[], None]] = [
        walk.operator_round, walk.operator_round, walk.operator_round, walk.start_pod, walk.start_pod,
        walk.fault, walk.reap, walk.toggle_suspend, walk.succeed, walk.pass_time,
        walk.edit_in_between, walk.rest,
    ]  # fmt: skip
    for _ in range(STEPS):
        walk.random.choice(steps)()
        walk.check()
    walk.to_the_end()
    status = walk.world.settle()
    assert condition(status, "Complete") == ("True", "Complete"), (status, walk.world.log)
    calls = len(walk.world.log)
    walk.world.wait(1000)
    walk.world.settle()
    assert len(walk.world.log) == calls, "at rest nothing is written"
