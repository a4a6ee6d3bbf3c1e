"""Store what came out: artifact, evaluation, metrics, and last of all the job's manifest. Safe to repeat at any point."""

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.artifacts import (
    ADAPTER,
    DATA,
    DATA_REPORT,
    EVALUATION,
    MANIFEST,
    METRICS,
    MODEL,
    RATE_SEARCH,
    REPORT,
    RESOLVED,
    Manifest,
)
from finetune_api.data_report import DataReport
from finetune_api.matrix import SAMPLING_METHODS
from finetune_api.pods import Trained
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus, Diagnosis, EvaluationStatus, ResolvedBaseModel
from finetune_stage import record
from finetune_stage.page import Contents, page
from finetune_stage.record import Made, entry, folder_entries, record_of, versions_of, write_manifest
from finetune_stage.scores import EvaluationFile
from finetune_storage import commit_folder, document
from finetune_trainer.card import how_servable, model_card
from finetune_trainer.diagnosis import Evidence, diagnose
from finetune_trainer.inputs import Inputs
from finetune_trainer.mlflow_run import Ended
from finetune_trainer.progress import Course
from finetune_trainer.samples import samples
from finetune_trainer.suites import forgotten
from finetune_trainer.tracking import Tracked, track

LIBRARIES = (
    "finetune-operator",
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
)


@dataclass(frozen=True)
class Outcome:
    """What the earlier steps made."""

    course: Course
    evaluation: EvaluationFile | None
    stop_tokens: list[int]
    """Tokens that end an answer of the tuned model."""

    def diagnosed(self, found: list[Diagnosis]) -> "Outcome":
        """With what stands out noted in the evaluation."""
        if self.evaluation is None:
            return self
        summary = self.evaluation.summary.model_copy(update={"diagnosis": found or None})
        return replace(self, evaluation=self.evaluation.model_copy(update={"summary": summary}))

    @property
    def summary(self) -> EvaluationStatus | None:
        """The figures and verdicts."""
        return self.evaluation.summary if self.evaluation else None

    @property
    def gate_passed(self) -> bool:
        """Also where there is no gate."""
        return self.evaluation is None or self.evaluation.gate_passed


def publish(model: Any, tokenizer: Any, inputs: Inputs, outcome: Outcome, image: str) -> Trained:
    """Upload everything and write the job's manifest."""
    store, resolved = inputs.store, inputs.resolved
    is_adapter = resolved.adapter.type != "Full"
    key = ADAPTER if is_adapter else MODEL
    folder = inputs.work / "artifact"
    if is_adapter:
        save_adapter(model, resolved.base_model, outcome.stop_tokens, folder)
        if resolved.adapter.new_tokens:  # else the base's own reads the same
            tokenizer.save_pretrained(folder)
    else:
        save_model(model, tokenizer, outcome.stop_tokens, folder)
    metrics = [json.loads(line) for line in (inputs.work / METRICS).read_bytes().splitlines()]
    outcome = outcome.diagnosed(diagnose(_evidence(inputs, outcome, metrics)))
    card = model_card(resolved, outcome.course, outcome.evaluation, versions_of(LIBRARIES))
    (folder / "README.md").write_text(card)
    base = resolved.base_model if is_adapter else None
    manifest = Manifest(kind="Adapter" if is_adapter else "Model", files=[], base_model=base)
    digest = commit_folder(store, folder, key, manifest)
    how, why = how_servable(resolved)
    artifact = ArtifactStatus(
        kind="Adapter" if is_adapter else "Model",
        servable=how,
        servable_reason=why,
        uri=store.uri(key),
        digest=digest,
        manifest_uri=store.uri(MANIFEST),
    )
    files = [entry(store, RESOLVED), *folder_entries(store, DATA), *folder_entries(store, key)]
    files.append(store.upload(inputs.work / METRICS, METRICS))
    files += [entry(store, RATE_SEARCH)] if inputs.search else []
    if outcome.evaluation is not None:
        store.put(EVALUATION, document(outcome.evaluation))
        files.append(entry(store, EVALUATION))
    tracked = track(inputs, Ended(resolved, metrics, artifact, outcome.summary))
    files += tracked.files
    store.put(REPORT, page(_contents(inputs, outcome, metrics)).encode())
    files.append(entry(store, REPORT))
    made = _made(outcome, tracked, artifact, image, inputs)
    return write_manifest(store, files, record_of(resolved, inputs.resolved_digest, made))


def _contents(inputs: Inputs, outcome: Outcome, metrics: list[dict[str, Any]]) -> Contents:
    report, summary = inputs.work / DATA_REPORT, outcome.summary
    return Contents(
        resolved=inputs.resolved,
        metrics=metrics,
        summary=summary,
        confusion=outcome.evaluation.confusion if outcome.evaluation else None,
        labels=outcome.evaluation.labels if outcome.evaluation else None,
        diagnosis=(summary.diagnosis if summary else None) or [],
        versions=versions_of(LIBRARIES),
        samples=samples(inputs.held_out()[1], outcome.evaluation),
        data=DataReport.model_validate_json(report.read_bytes()) if report.exists() else None,
        peak=outcome.course.peak_memory,
        validation=outcome.course.validation,
        search=inputs.search,
        evaluation=outcome.evaluation,
    )


def _made(outcome: Outcome, tracked: Tracked, artifact: ArtifactStatus, image: str, inputs: Inputs) -> Made:
    done = outcome.course
    course = record.Course(
        done.tokens,
        done.steps,
        done.loss,
        done.peak_memory,
        validation=done.validation,
        skipped_batch=done.skipped_batch,
        tracking_error=tracked.error,
        learning_rate=inputs.search.choice() if inputs.search else None,
    )
    return Made(artifact, outcome.evaluation, course, image, versions_of(LIBRARIES))


def _evidence(inputs: Inputs, outcome: Outcome, metrics: list[dict[str, Any]]) -> Evidence:
    training, rows = inputs.resolved.training, len(inputs.splits["train"])
    summary = outcome.summary
    base = (summary.base if summary else None) or {}
    return Evidence(
        # The loss of a method that samples answers goes about zero whatever is learned.
        losses=[] if inputs.resolved.method in SAMPLING_METHODS else [(line["step"], line["loss"]) for line in metrics],
        train_rows=rows,
        held_out_rows=summary.rows if summary else 0,
        passes=metrics[-1].get("epoch", 0.0) if metrics else 0.0,
        learning_rate=training.learning_rate,
        comparable=inputs.resolved.method in ("sft", "cpt") and not training.label_smoothing,
        base_loss=base.get("Loss"),
        tuned_loss=summary.tuned.get("Loss") if summary else None,
        forgotten=forgotten(outcome.evaluation, inputs.resolved.suites),
        validation=[]
        if training.publish_best
        else [(line["step"], line["validationLoss"]) for line in metrics if "validationLoss" in line],
    )


def save_model(model: Any, tokenizer: Any, stop_tokens: list[int], folder: Path) -> None:
    """Write a whole model, and what a server needs to know beside the weights."""
    if model.can_generate():
        model.generation_config.eos_token_id = stop_tokens
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_adapter(model: Any, base: ResolvedBaseModel, stop_tokens: list[int], folder: Path) -> None:
    """Write the weights that learned, and what a server needs to know beside them."""
    config = model.peft_config[model.active_adapter]
    config.base_model_name_or_path = str(base.uri).removeprefix("hf://")
    config.revision = base.revision
    for field in ("target_modules", "feedforward_modules"):  # a set has no order, and equal adapters have equal digests
        if isinstance(named := vars(config).get(field), set):
            setattr(config, field, sorted(named))
    # Rows of new tokens are the adapter's own; "auto" would ask a hub about the base, and store whole embeddings.
    model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=[model.active_adapter])  # no reference
    if model.can_generate():
        model.generation_config.eos_token_id = stop_tokens
        model.generation_config.save_pretrained(folder)
    else:  # how many scores there are and what they mean is in the model's own configuration only
        plain = deepcopy(model.get_base_model().config)
        plain.__dict__.pop("quantization_config", None)  # how the training held the base, which is stored plain
        plain.save_pretrained(folder)
