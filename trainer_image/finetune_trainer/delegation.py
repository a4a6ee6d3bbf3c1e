"""The end of the prepare stage for a job a provider trains: no tokenizer, no plan; rows, and how the result is judged.

What the spec leaves out the provider decides. Every row is brought into its shape once, so that what it would not take is told
before anything is sent.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from finetune_api.artifacts import DATA, RESOLVED, InPlace, Manifest, PreparedSplit, ResolvedDelegation
from finetune_api.pods import JobConfig
from finetune_api.pods import Prepared as Outcome
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.evaluation import EvaluationSpec, Metric
from finetune_api.v1alpha1.finetunejob_status import DatasetStatus, PlanStatus, SplitStatistics
from finetune_stage.chats import answer_of, calls_tools
from finetune_stage.outcome import Places
from finetune_stage.provider_rows import SENT, Shape, lines, shape_of
from finetune_stage.rows import Row
from finetune_storage import Store, commit_folder, digest_of, document, sha256_of
from finetune_trainer.data.sources import SourceFile
from finetune_trainer.data.splits import Prepared
from finetune_trainer.plan import Choices, split_seed
from finetune_trainer.plan_evaluation import LONGEST_ANSWER

FORMATS = ("Messages", "PromptCompletion", "Preference")


def is_delegated(config: JobConfig) -> bool:
    """Whether a provider trains it."""
    backend = config.spec.backend
    return backend is not None and (backend.vertex is not None or backend.openai is not None)


def storage_url(config: JobConfig) -> str | None:
    """Where Cloud Storage is, where the spec says so."""
    vertex = config.spec.backend.vertex if config.spec.backend else None
    return vertex.storage_url if vertex else None


def in_place(config: JobConfig, data: Prepared, sources: list[SourceFile]) -> list[InPlace]:
    """Splits whose one file lies in gs:// in Vertex's own shape, and of which every row is kept: Vertex reads it there."""
    if config.spec.backend is None or config.spec.backend.vertex is None or data.row_format != "Vertex":
        return []
    if config.spec.dataset.columns is not None and config.spec.dataset.columns.contents not in (None, "contents"):
        return []
    found = []
    for split in SENT:
        files = [each for each in sources if each.split == split]
        if len(files) != 1 or files[0].generation is None or not files[0].name.endswith(".jsonl"):
            continue
        if data.rows[split] == data.sources[files[0].name]:
            found.append(InPlace(split=split, uri=files[0].name, generation=files[0].generation))
    return found


def publish(
    config: JobConfig, data: Prepared, choices: Choices, store: Store, places: Places, kept: list[InPlace]
) -> Outcome:
    """Write data/ and, last, resolved.json."""
    if data.format not in FORMATS:
        raise Failure(Reason.DATA_INVALID, f"rows of format {data.format} cannot be sent to a provider; {FORMATS} can")
    shape = _shape(config)
    for split, path in data.files.items():
        _check(shape, split, path)
    splits = _splits(data)
    evaluation = _evaluation(config, data, choices)
    digest = commit_folder(store, places.work_dir / DATA, DATA, Manifest(kind="Data", files=[]))
    resolved = document(
        ResolvedDelegation(
            namespace=config.namespace,
            name=config.name,
            uid=config.uid,
            method="dpo" if data.format == "Preference" else "sft",
            format=data.format,
            base_model=config.base_model,
            splits=splits,
            in_place=kept,
            data_digest=digest,
            evaluation=evaluation,
            seed=split_seed(config.spec),
            choices=choices.made,
            output_folder=store.uri(),
        )
    )
    store.put(RESOLVED, resolved)
    found = DatasetStatus(
        format=data.row_format,
        splits=[split.statistics for split in splits],
        duplicates=data.duplicates,
        invalid=data.invalid,
        near_duplicates=data.near_duplicates or 0,
        resolved_digest=digest_of(resolved),
    )
    return Outcome(dataset=found, plan=PlanStatus(choices=choices.made))


def _splits(data: Prepared) -> list[PreparedSplit]:
    return [
        PreparedSplit(
            file=f"{DATA}/{path.name}",
            sha256=sha256_of(path),
            statistics=SplitStatistics(name=split, rows=data.rows[split]),
        )
        for split, path in data.files.items()
    ]


def _evaluation(config: JobConfig, data: Prepared, choices: Choices) -> EvaluationSpec:
    stated = config.spec.evaluation or EvaluationSpec()
    held_out = data.files.get("test") or data.files.get("validation")
    if held_out is None:
        return stated
    usual: list[Metric] = ["ExactMatch", "Accuracy", "MacroF1"] if stated.labels else ["ExactMatch"]
    metrics = choices.take("evaluation.metrics", stated.metrics, usual, "those a provider's answers can be judged by")
    # A token is at least a byte (of an emoji each may be one): enough for each answer, whatever the provider's tokenizer.
    lengths = [len(answer_of(row.fields).encode()) for row in _rows(held_out) if not calls_tools(row.fields)]
    if stated.gate and not lengths:
        raise Failure(
            Reason.DATA_INVALID,
            "evaluation.gate: the answers of all held-out rows call tools, and a provider's model is asked for texts, without tools; "
            "hold out rows that are answered by a text, or leave the gate out",
        )
    longest = min(LONGEST_ANSWER, max([1, *lengths]))
    tokens = choices.take(
        "evaluation.maxNewTokens", stated.max_new_tokens, longest, "bytes of the longest held-out answer"
    )
    return stated.model_copy(update={"metrics": metrics, "max_new_tokens": tokens})


def _shape(config: JobConfig) -> Shape:
    backend = config.spec.backend
    stated = (backend.vertex or backend.openai) if backend else None
    assert stated is not None
    return shape_of(stated)


def _check(shape: Shape, split: str, path: Path) -> None:
    """Raises Failure(DATA_INVALID) for rows the provider would not take."""
    for _ in lines(shape, split, _rows(path)):
        pass


def _rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        yield from (Row("", json.loads(line)) for line in file)
