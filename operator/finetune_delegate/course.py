"""What is told while a provider trains: a line for people, metrics.jsonl for later, a report for the operator."""

import json
from datetime import UTC, datetime
from pathlib import Path

from finetune_api.artifacts import METRICS
from finetune_api.model import MAX_SENTENCE
from finetune_api.pods import Report
from finetune_api.v1alpha1.finetunejob_status import TrainerStatus
from finetune_api.v1alpha1.provider import ProviderStatus
from finetune_delegate.provider import Logged, View
from finetune_stage.report import Reporter, metrics_of
from finetune_storage import Store

LOSSES = ("train_loss", "loss")


class Course:
    """The course of the provider's job as this attempt sees it; the provider repeats what an earlier attempt saw."""

    def __init__(self, store: Store, work: Path, reporter: Reporter) -> None:
        self._store = store
        self._file = work / METRICS
        self._file.touch()
        self._reporter = reporter
        self._said = ""
        self._last: Logged | None = None
        self.steps = 0
        self.loss: float | None = None

    def tell(self, view: View, logged: list[Logged]) -> None:
        """The provider was asked."""
        for each in logged:
            self._log(each)
        if logged:
            self._store.upload(self._file, METRICS)
        if (said := f"{view.job} is {view.state}. {view.message}".strip()) != self._said:
            print(said, flush=True)
            self._said = said
        self._reporter.send(self._report(view))

    def evaluating(self, view: View) -> None:
        """The provider is done."""
        self._reporter.send(self._report(view, percent=100))

    def store(self) -> None:
        """metrics.jsonl as it stands."""
        self._store.upload(self._file, METRICS)

    def status(self, view: View) -> ProviderStatus:
        """The provider's side."""
        return ProviderStatus(
            job=view.job,
            state=view.state,
            message=view.message[:MAX_SENTENCE] or None,
            billed_tokens=view.billed_tokens,
        )

    def _log(self, logged: Logged) -> None:
        self._last = logged
        self.steps = max(self.steps, logged.step)
        self.loss = next((logged.figures[name] for name in LOSSES if name in logged.figures), self.loss)
        with self._file.open("a") as file:
            file.write(json.dumps({"step": logged.step, **logged.figures, "time": logged.time}) + "\n")

    def _report(self, view: View, percent: int | None = None) -> Report:
        total = (self._last and self._last.total_steps) or view.steps
        if percent is None and self._last is not None and total:
            percent = min(99, 100 * self._last.step // total)  # 100 says that evaluation begins
        figures = dict(self._last.figures) if self._last else {}
        counts = {"current_step": self.steps, **({"total_steps": total} if total else {})} if self._last else {}
        status = TrainerStatus(
            progress_percentage=percent,
            estimated_remaining_seconds=view.seconds_left,
            metrics=metrics_of(counts | figures)[:64],
            last_updated_time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        return Report(trainer_status=status, checkpoints=list(view.checkpoints) or None, provider=self.status(view))
