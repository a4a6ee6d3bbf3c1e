"""The model card (README.md) of an artifact: where it comes from, how good it is. Pure."""

from finetune_api.artifacts import Resolved
from finetune_api.servable import servable
from finetune_api.v1alpha1.finetunejob_status import EvaluationStatus
from finetune_trainer.inputs import Inputs
from finetune_trainer.progress import Course


def model_card(
    inputs: Inputs, course: Course, evaluation: EvaluationStatus | None, gate_passed: bool, versions: dict[str, str]
) -> str:
    """Markdown with the front matter hubs read."""
    resolved = inputs.resolved
    sections = [
        _front_matter(resolved),
        f"# {resolved.name}",
        _origin(resolved, course),
        "## Evaluation",
        _evaluation(evaluation),
        f"Gate: {'passed' if gate_passed else '**failed**; do not deploy'}.",
        *(f"- {result.message}" for result in (evaluation.gate if evaluation else None) or ()),
        "## Made with",
        "\n".join(f"- {name} {version}" for name, version in versions.items()),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(resolved: Resolved) -> str:
    base = (resolved.base_model.uri or "").removeprefix("hf://")
    lines = ["---"]
    if base:
        lines.append(f"base_model: {base}")
    lines.append(f"library_name: {'transformers' if resolved.adapter.type == 'Full' else 'peft'}")
    task = "text-classification" if resolved.method in ("reward", "classification") else "text-generation"
    lines += [f"pipeline_tag: {task}", f"tags: [finetune-operator, {resolved.method}]", "---"]
    return "\n".join(lines)


def _origin(resolved: Resolved, course: Course) -> str:
    base = resolved.base_model.uri or "random weights of a stated architecture"
    training = resolved.training
    pairs = {
        "Job": f"{resolved.namespace}/{resolved.name} ({resolved.uid})",
        "Base model": " ".join(filter(None, (base, resolved.base_model.revision, resolved.base_model.digest))),
        "Method": f"{resolved.method}, {resolved.adapter.type}",
        "Data": resolved.data_digest,
        "Steps": f"{course.steps} of {training.batch_size} rows, {course.tokens:,} tokens, seed {training.seed}",
        "Learning rate": f"{training.learning_rate:g}, {training.scheduler}",
        "Servable": servable_as(resolved),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in pairs.items())])


def servable_as(resolved: Resolved) -> str:
    """How servers can use it."""
    highest = max((resolved.adapter.rank, *resolved.adapter.rank_pattern.values()))
    how, why = servable(resolved.method, resolved.adapter.type, highest)
    return {"Adapter": "as an adapter", "Merged": "merged only", "No": "no"}[how] + f" ({why})"


def _evaluation(evaluation: EvaluationStatus | None) -> str:
    if evaluation is None or not evaluation.rows:
        return "No held-out rows."
    base = evaluation.base or {}
    lines = [
        f"On {evaluation.rows} rows of the {evaluation.split} split.",
        "",
        "| Metric | Base | Tuned |",
        "|---|---|---|",
    ]
    for name, value in evaluation.tuned.items():
        lines.append(f"| {name} | {f'{base[name]:.4g}' if name in base else ''} | {value:.4g} |")
    if evaluation.majority_class is not None:
        lines += ["", f"The most frequent training answer would be right on {evaluation.majority_class:.1%}."]
    return "\n".join(lines)
