"""Store what came out: the endpoint's names, the evaluation, the metrics, and last of all the job's manifest."""

import json
from dataclasses import dataclass
from pathlib import Path

from finetune_api.artifacts import (
    DATA,
    ENDPOINT,
    ENDPOINT_FILE,
    EVALUATION,
    MANIFEST,
    METRICS,
    REPORT,
    RESOLVED,
    Manifest,
    ResolvedDelegation,
)
from finetune_api.pods import Trained
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus
from finetune_api.v1alpha1.provider import ProviderModel, ProviderStatus
from finetune_stage.page import Contents, page
from finetune_stage.record import Course, Made, entry, folder_entries, record_of, versions_of, write_manifest
from finetune_stage.scores import EvaluationFile
from finetune_storage import Store, commit_folder, digest_of, document

LIBRARIES = ("finetune-operator", "openai", "google-genai")


@dataclass(frozen=True)
class Result:
    """What the earlier steps made."""

    model: ProviderModel
    status: ProviderStatus
    evaluation: EvaluationFile | None
    steps: int
    loss: float | None


def publish(store: Store, resolved: ResolvedDelegation, result: Result, work: Path, image: str) -> Trained:
    """Write everything; safe to repeat at any point."""
    folder = work / ENDPOINT
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENDPOINT_FILE).write_bytes(document(result.model))
    (folder / "README.md").write_text(card(resolved, result))
    manifest = Manifest(kind="Endpoint", files=[], base_model=resolved.base_model, provider=result.model)
    digest = commit_folder(store, folder, ENDPOINT, manifest)
    files = [
        entry(store, RESOLVED),
        *folder_entries(store, DATA),
        *folder_entries(store, ENDPOINT),
        entry(store, METRICS),
    ]
    evaluation = result.evaluation
    if evaluation is not None:
        store.put(EVALUATION, document(evaluation))
        files.append(entry(store, EVALUATION))
    store.put(REPORT, _page(store, resolved, evaluation).encode())
    files.append(entry(store, REPORT))
    artifact = ArtifactStatus(
        kind="Endpoint",
        uri=store.uri(ENDPOINT),
        digest=digest,
        provider=result.model,
        manifest_uri=store.uri(MANIFEST),
    )
    status = result.status
    course = Course(status.billed_tokens or 0, result.steps, result.loss, provider=status)
    made = Made(artifact, evaluation, course, image, versions_of(LIBRARIES))
    return write_manifest(store, files, record_of(resolved, digest_of(store.get(RESOLVED)), made))


def _page(store: Store, resolved: ResolvedDelegation, evaluation: EvaluationFile | None) -> str:
    """Without a diagnosis: providers draw their curves too differently."""
    metrics = [json.loads(line) for line in store.get(METRICS).splitlines()]
    summary, confusion = (evaluation.summary, evaluation.confusion) if evaluation else (None, None)
    return page(Contents(resolved, metrics, summary, confusion, [], versions_of(LIBRARIES), evaluation=evaluation))


def card(resolved: ResolvedDelegation, result: Result) -> str:
    """The README.md of the artifact."""
    model, evaluation = result.model, result.evaluation
    pairs = {
        "Job": f"{resolved.namespace}/{resolved.name} ({resolved.uid})",
        "Provider": f"{model.kind}, {model.job}",
        "Model": model.model,
        "Endpoint": model.endpoint or "the model's name",
        "Base model": model.base_model,
        "Data": resolved.data_digest,
        "Billed tokens": str(result.status.billed_tokens),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in pairs.items())
    judged = "No held-out rows."
    if evaluation is not None:
        base = evaluation.summary.base or {}
        figures = [
            f"{k}: base {base[k]:.4g}, tuned {v:.4g}" if k in base else f"{k}: {v:.4g}"
            for k, v in evaluation.summary.tuned.items()
        ]
        verdicts = [verdict.message for verdict in evaluation.summary.gate or []]
        judged = "\n".join(f"- {line}" for line in [*figures, *verdicts])
    return f"# {resolved.name}\n\nThe weights live at the provider.\n\n| | |\n|---|---|\n{rows}\n\n## Evaluation\n\n{judged}\n"
