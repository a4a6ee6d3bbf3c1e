"""The model card (README.md) of an artifact: where it comes from, what it is for, how good it is. Pure."""

from huggingface_hub import EvalResult, ModelCardData

from finetune_api.artifacts import Resolved
from finetune_api.servable import servable
from finetune_api.v1alpha1.finetunejob_status import EvaluationStatus, Servable
from finetune_api.v1alpha1.output import CardSpec
from finetune_stage.scores import EvaluationFile
from finetune_trainer.progress import Course

HUB, HUB_DATASETS = "hf://", "hf://datasets/"
HUB_METRICS = {
    "ExactMatch": "exact_match",
    "MacroF1": "f1",
    "TokenF1": "f1",
    "Rouge1": "rouge",
    "Rouge2": "rouge",
    "RougeL": "rouge",
}
"""Names of the hub's own, where they are not ours in lower case."""
INTERVAL = "95 % interval of the change"
"""From the base, over the held-out rows."""
NO_USE = "Not stated: `output.card.intendedUse` of the job."


def model_card(resolved: Resolved, course: Course, file: EvaluationFile | None, versions: dict[str, str]) -> str:
    """Markdown with the front matter hubs read; ``file`` is what the evaluation came to."""
    card, evaluation = resolved.card or CardSpec(), file.summary if file else None
    sections = [
        f"---\n{_metadata(resolved, card, evaluation).to_yaml()}\n---",
        f"# {resolved.name}",
        _origin(resolved, course),
        "## Intended use",
        card.intended_use or NO_USE,
        "## Evaluation",
        _evaluation(file),
        f"Gate: {'passed' if file is None or file.gate_passed else '**failed**; do not deploy'}.",
        *(f"- {result.message}" for result in (evaluation.gate if evaluation else None) or ()),
        "## Made with",
        "\n".join(f"- {name} {version}" for name, version in versions.items()),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(resolved: Resolved, card: CardSpec, evaluation: EvaluationStatus | None) -> ModelCardData:
    """Only what a hub knows is named as its own: a base or a dataset elsewhere is in the text."""
    base = resolved.base_model.uri or ""
    results = _results(resolved, evaluation)
    return ModelCardData(
        base_model=base.removeprefix(HUB) if base.startswith(HUB) else None,
        datasets=_hub_datasets(resolved) or None,
        license=card.license,
        license_name=card.license_name,
        license_link=card.license_link,
        library_name="transformers" if resolved.adapter.type == "Full" else "peft",
        pipeline_tag=_task(resolved),
        tags=["finetune-operator", resolved.method],
        model_name=resolved.name if results else None,
        eval_results=results or None,
    )


def _results(resolved: Resolved, evaluation: EvaluationStatus | None) -> list[EvalResult]:
    """The tuned model's figures, as a model-index holds them; the data by its digest."""
    if evaluation is None or not evaluation.rows:
        return []
    return [
        EvalResult(
            task_type=_task(resolved),
            dataset_type="custom",
            dataset_name=f"held-out rows of {resolved.namespace}/{resolved.name}",
            dataset_split=evaluation.split,
            dataset_args={"digest": resolved.data_digest, "rows": evaluation.rows},
            metric_type=HUB_METRICS.get(name, name.lower()),
            metric_name=name,
            metric_value=value,
        )
        for name, value in evaluation.tuned.items()
    ]


def _task(resolved: Resolved) -> str:
    return "text-classification" if resolved.method in ("reward", "classification") else "text-generation"


def _hub_datasets(resolved: Resolved) -> list[str]:
    dataset = resolved.dataset
    uris = [source.uri or "" for source in (dataset.train, dataset.validation, dataset.test) if source is not None]
    names = ["/".join(uri.removeprefix(HUB_DATASETS).split("/")[:2]) for uri in uris if uri.startswith(HUB_DATASETS)]
    return sorted({name.partition("@")[0] for name in names})


def _origin(resolved: Resolved, course: Course) -> str:
    base = resolved.base_model.uri or "random weights of a stated architecture"
    training, initial = resolved.training, resolved.adapter.initial
    ending = {"Published": course.validation.message} if course.validation else {}
    pairs = {
        "Job": f"{resolved.namespace}/{resolved.name} ({resolved.uid})",
        "Base model": " ".join(filter(None, (base, resolved.base_model.revision, resolved.base_model.digest))),
        **({"Initial adapter": f"{initial.uri} {initial.digest}"} if initial else {}),
        "Method": f"{resolved.method}, {resolved.adapter.type}",
        "Data": resolved.data_digest,
        "Steps": f"{course.steps} of {training.batch_size} rows, {course.tokens:,} tokens, seed {training.seed}",
        "Learning rate": f"{training.learning_rate:g}, {training.scheduler}",
        "Servable": servable_as(resolved),
        **_vocabulary(resolved),
        **ending,
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in pairs.items())])


def _vocabulary(resolved: Resolved) -> dict[str, str]:
    """What must be done before such an adapter is put on its base."""
    new = resolved.adapter.new_tokens
    if not new:
        return {}
    text = " ".join(f"`{token}`" for token in new).replace("|", "\\|")
    return {
        "New tokens": f"{text}; read with this folder's tokenizer, and where it has more entries than the base has embeddings call "
        "`resize_token_embeddings(len(tokenizer))` before the adapter is loaded (`AutoPeftModelForCausalLM` does)"
    }


def servable_as(resolved: Resolved) -> str:
    """How servers can use it."""
    how, why = how_servable(resolved)
    return {"Adapter": "as an adapter", "Merged": "merged only", "No": "no"}[how] + f" ({why})"


def how_servable(resolved: Resolved) -> tuple[Servable, str]:
    """The mark of the artifact, and why."""
    adapter = resolved.adapter
    highest = max((adapter.rank, *adapter.rank_pattern.values()))
    return servable(
        resolved.method, adapter.type, highest, new_tokens=bool(adapter.new_tokens), experts=adapter.experts
    )


def _evaluation(file: EvaluationFile | None) -> str:
    if file is None or not file.summary.rows:
        return "No held-out rows."
    seen, gains = file.summary, file.gains or {}
    columns = {
        "Base": _shown(seen.base),
        **({"Previous": _shown(seen.previous)} if seen.previous else {}),
        "Tuned": _shown(seen.tuned),
        **({INTERVAL: {name: gain.of_change(name) for name, gain in gains.items()}} if gains else {}),
    }
    lines = [
        f"On {seen.rows} rows of the {seen.split} split.",
        "",
        f"| Metric | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in seen.tuned:
        lines.append(f"| {name} | {' | '.join(column.get(name, '') for column in columns.values())} |")
    if seen.majority_class is not None:
        lines += ["", f"The most frequent training answer would be right on {seen.majority_class:.1%}."]
    return "\n".join(lines)


def _shown(figures: dict[str, float] | None) -> dict[str, str]:
    return {name: f"{value:.4g}" for name, value in (figures or {}).items()}
