"""The prepare stage: check everything that can be checked without a GPU, and decide every value left out.

Writes the prepared rows and resolved.json below the job's folder; the train stage reads only those. Equal inputs give
equal bytes, so that a second attempt changes nothing. Called by :mod:`finetune_trainer.__main__`.
"""

from pathlib import Path
from typing import Any, NamedTuple

from finetune_api.artifacts import DATA, RESOLVED, TOKENIZER, Manifest, PreparedSplit, Resolved, job_folder
from finetune_api.pods import JobConfig
from finetune_api.pods import Prepared as Outcome
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob import DatasetStatus, PlanStatus
from finetune_stage.outcome import Places
from finetune_storage import Store, commit_folder, digest_of, document, sha256_of
from finetune_trainer import base_model, delegation
from finetune_trainer.base_model import BaseFacts
from finetune_trainer.data.measuring import Lengths, measure
from finetune_trainer.data.sources import SplitName, fetch_sources
from finetune_trainer.data.splits import Prepared, Wanted, prepare_splits
from finetune_trainer.encode import encoder
from finetune_trainer.plan import Choices, Plan, answers_only, decide, split_seed
from finetune_trainer.sizing import Situation, method_of
from finetune_trainer.tokenizer import load_tokenizer, train_tokenizer

PROBE = ".write-probe"


class Checked(NamedTuple):
    """All that is known when everything is checked."""

    base: BaseFacts
    data: Prepared
    lengths: dict[SplitName, Lengths]


def run(config: JobConfig, places: Places) -> Outcome:
    """Carry the stage out; what was found and decided."""
    store = _writable_output(config, places)
    sources = fetch_sources(config.spec.dataset, places)
    is_delegated = delegation.is_delegated(config)
    base = None if is_delegated else _base(config, places)
    labels = frozenset((config.spec.evaluation.labels if config.spec.evaluation else None) or ())
    wanted = Wanted(config.spec.dataset, method_of(config.spec), labels, split_seed(config.spec))
    data = prepare_splits(sources, wanted, places.work_dir / DATA)
    choices = Choices()
    _note_data_choices(config, data, choices)
    if base is None:
        return delegation.publish(config, data, choices, store, places)
    checked = Checked(base, data, _lengths(config, places, data))
    plan = decide(Situation(config.spec, base, checked.lengths), choices)
    return _publish(config, checked, plan, choices, store, places)


def _writable_output(config: JobConfig, places: Places) -> Store:
    """The job's folder, into which an object was just written and deleted."""
    output = config.spec.output
    folder = job_folder(output.uri, config.namespace, config.name, config.uid)
    store = places.store(folder, output.secret_ref, Reason.ARTIFACT_CORRUPT)
    try:
        store.put(PROBE, b"")
        store.delete([PROBE])
    except Failure as end:
        if end.reason is Reason.ACCESS_DENIED:
            raise Failure(Reason.OUTPUT_NOT_WRITABLE, f"output: {end.message}") from None
        raise
    return store


def _base_folder(places: Places) -> Path:
    return places.work_dir / "base"


def _base(config: JobConfig, places: Places) -> BaseFacts:
    stated = config.spec.base_model.from_config
    if stated is not None:
        return base_model.from_config(stated)
    if config.base_model.uri is None:
        raise Failure(Reason.CONFIG_INVALID, "baseModel has no address: neither uri nor fromConfig is set")
    return base_model.inspect(config.base_model, _base_folder(places), places)


def _lengths(config: JobConfig, places: Places, data: Prepared) -> dict[SplitName, Lengths]:
    """Every split, tokenised as the train stage will."""
    with_tokenizer = encoder(_tokenizer(config, places, data), data.format, answers_only(config.spec))
    return {split: measure(path, with_tokenizer, split) for split, path in data.files.items()}


def _tokenizer(config: JobConfig, places: Places, data: Prepared) -> Any:
    stated = config.spec.base_model.from_config
    if stated is not None:
        return train_tokenizer(data.files["train"], stated, places.work_dir / TOKENIZER)
    folder, uri = _base_folder(places), str(config.base_model.uri)
    tokenizer = load_tokenizer(folder, uri)
    base_model.check_vocabulary(tokenizer, folder, uri)
    return tokenizer


def _note_data_choices(config: JobConfig, data: Prepared, choices: Choices) -> None:
    dataset = config.spec.dataset
    stated = None if dataset.format == "Auto" else dataset.format
    choices.take("dataset.format", stated, data.row_format, "told by the first row's fields")
    if dataset.split is not None:
        choices.take("dataset.split.seed", dataset.split.seed, split_seed(config.spec), "that of the training")


def _publish(
    config: JobConfig, checked: Checked, plan: Plan, choices: Choices, store: Store, places: Places
) -> Outcome:
    """Write data/ and, last, resolved.json."""
    method = method_of(config.spec)
    splits = _splits(checked, plan, method)
    data_digest = commit_folder(store, places.work_dir / DATA, DATA, Manifest(kind="Data", files=[]))
    resolved = document(
        Resolved(
            namespace=config.namespace,
            name=config.name,
            uid=config.uid,
            method=method,
            method_settings=plan.method,
            format=checked.data.format,
            base_model=checked.base.pinned,
            from_config=config.spec.base_model.from_config,
            dataset=config.spec.dataset,
            splits=splits,
            data_digest=data_digest,
            adapter=plan.adapter,
            training=plan.training,
            evaluation=plan.evaluation,
            choices=choices.made,
            output_folder=store.uri(),
        )
    )
    store.put(RESOLVED, resolved)
    return Outcome(
        dataset=DatasetStatus(
            format=checked.data.row_format,
            splits=[split.statistics for split in splits],
            duplicates=checked.data.duplicates,
            invalid=checked.data.invalid,
            resolved_digest=digest_of(resolved),
        ),
        plan=PlanStatus(choices=choices.made, steps=plan.training.steps, **plan.forecast._asdict()),
    )


def _splits(checked: Checked, plan: Plan, method: str) -> list[PreparedSplit]:
    return [
        PreparedSplit(
            file=f"{DATA}/{path.name}",
            sha256=sha256_of(path),
            statistics=checked.lengths[split].statistics(split, plan.training, method),
        )
        for split, path in checked.data.files.items()
    ]
