"""The prepare stage: check everything that can be checked without a GPU, and decide every value left out.

Writes the prepared rows and resolved.json below the job's folder; the train stage reads only those. Equal inputs give
equal bytes, so that a second attempt changes nothing (but the day, where the base's chat template asks for it). Called by :mod:`finetune_trainer.__main__`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from finetune_api.artifacts import (
    DATA,
    DATA_PAGE,
    DATA_REPORT,
    INVALID_ROWS,
    RESOLVED,
    TOKENIZER,
    Manifest,
    PreparedSplit,
    PreparedSuite,
    Resolved,
    ResolvedRewardModel,
    job_folder,
)
from finetune_api.pods import JobConfig, Report
from finetune_api.pods import Prepared as Outcome
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import Quality
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob_status import (
    Choice,
    PlanStatus,
    ResolvedBaseModel,
    TrainerMetric,
    TrainerStatus,
)
from finetune_stage.outcome import Places
from finetune_stage.page import data_page
from finetune_stage.report import Reporter, destination
from finetune_storage import Store, commit_folder, digest_of, document, sha256_of
from finetune_trainer import base_model, delegation, initial, new_tokens, previous, reward_model
from finetune_trainer.base_model import BaseFacts
from finetune_trainer.chat_template import asks_for_the_date
from finetune_trainer.data.classes import Classes, classes_of
from finetune_trainer.data.contamination import guarded_suite
from finetune_trainer.data.examining import Examined, Looking, examine
from finetune_trainer.data.findings import Findings
from finetune_trainer.data.mixing import Mixing
from finetune_trainer.data.preview import write_preview
from finetune_trainer.data.progress import Progress
from finetune_trainer.data.reporting import data_report, dataset_status
from finetune_trainer.data.sources import SourceFile, fetch_sources
from finetune_trainer.data.splits import Prepared, Wanted, prepare_splits
from finetune_trainer.data.suites import guarded, prepare_suites
from finetune_trainer.encode import encoder
from finetune_trainer.plan import Choices, Plan, answers_only, decide, split_seed
from finetune_trainer.plan_adapter import Inherited
from finetune_trainer.sizing import Situation, method_of
from finetune_trainer.tokenizer import load_tokenizer, train_tokenizer

PROBE = ".write-probe"


class Checked(NamedTuple):
    """All that is known when everything is checked."""

    base: BaseFacts
    data: Prepared
    found: Examined
    sources: list[SourceFile]
    suites: list[PreparedSuite]
    reward_model: ResolvedRewardModel | None
    day: date | None


def run(config: JobConfig, places: Places) -> Outcome:
    """Carry the stage out; what was found and decided."""
    store = _writable_output(config, places)
    with Reporter(destination(os.environ)) as reporter, _invalid_rows(store, places) as findings:
        progress = Progress(partial(_tell, reporter))
        is_delegated = delegation.is_delegated(config)
        sources = fetch_sources(config.spec.dataset, places, delegation.storage_url(config))
        base = None if is_delegated else _base(config, places)
        data = prepare_splits(sources, _wanted(config), places.work_dir / DATA, progress, findings)
        choices = Choices()
        _note_data_choices(config, data, choices)
        if base is None:
            kept = delegation.in_place(config, data, sources)
            return delegation.publish(config, data, choices, store, places, kept)
        tokenizer = _tokenizer(config, places, data)
        config = _with_previous(config, base.pinned, places)
        scorer = reward_model.pinned(config, base.pinned, tokenizer, places)
        config, inherited = _with_initial(config, base.pinned, places)
        suites = prepare_suites(config.spec.evaluation or EvaluationSpec(), places, tokenizer)
        day = datetime.now(UTC).date() if asks_for_the_date(tokenizer) else None
        found = _examined(config, places, Reading(data, tokenizer, suites, day), progress)
        checked = Checked(base, data, found, sources, suites, scorer, day)
    plan = decide(Situation(config.spec, base, found.lengths, _classes(config, data), inherited), choices)
    return _publish(config, checked, plan, choices, store, places)


@contextmanager
def _invalid_rows(store: Store, places: Places) -> Iterator[Findings]:
    """Where invalid rows are noted. They are listed in the output, above all where the job ends because of them."""
    listed = places.work_dir / INVALID_ROWS
    findings = Findings(kept_at=store.uri(INVALID_ROWS))
    places.work_dir.mkdir(parents=True, exist_ok=True)
    try:
        with listed.open("w", encoding="utf-8") as findings.file:
            yield findings
    finally:
        if findings.count:
            store.upload(listed, INVALID_ROWS)


def _wanted(config: JobConfig) -> Wanted:
    return Wanted(config.spec.dataset, method_of(config.spec), _labels(config), split_seed(config.spec))


def _labels(config: JobConfig) -> frozenset[str]:
    return frozenset((config.spec.evaluation.labels if config.spec.evaluation else None) or ())


def _with_previous(config: JobConfig, base: ResolvedBaseModel, places: Places) -> JobConfig:
    """The previous adapter checked, and pinned by its digest."""
    stated = config.spec.evaluation
    if stated is None or stated.previous is None:
        return config
    evaluation = stated.model_copy(update={"previous": previous.pinned(stated.previous, base, places)})
    return config.model_copy(update={"spec": config.spec.model_copy(update={"evaluation": evaluation})})


def _with_initial(config: JobConfig, base: ResolvedBaseModel, places: Places) -> tuple[JobConfig, Inherited | None]:
    """The adapter to go on from checked, pinned by its digest, and what it brings."""
    stated = config.spec.adapter
    if stated is None or stated.initial is None:
        return config, None
    adapter, inherited = initial.adopted(stated, base, places)
    return config.model_copy(update={"spec": config.spec.model_copy(update={"adapter": adapter})}), inherited


class Reading(NamedTuple):
    """Rows, and what reads them."""

    data: Prepared
    tokenizer: Any
    suites: list[PreparedSuite]
    day: date | None


def _examined(config: JobConfig, places: Places, reading: Reading, progress: Progress) -> Examined:
    """Every row tokenised as the train stage will, and looked through; the first ones are written down for a person."""
    data = reading.data
    tokens = encoder(reading.tokenizer, data.format, answers_only(config.spec), _new_tokens(config), reading.day)
    quality = config.spec.dataset.quality or Quality()
    suites = [guarded_suite(suite, places) for suite in quality.suites or ()]
    suites += guarded(reading.suites, places)
    mix = config.spec.dataset.mix
    mixing = Mixing(mix.share, split_seed(config.spec)) if mix else None
    found = examine(data, Looking(tokens, quality, _labels(config), suites, mixing), progress)
    write_preview(places.work_dir / DATA, data, tokens)
    return found


def _tell(reporter: Reporter, step: str, done: int, total: int | None) -> None:
    """How far the stage is: to the log, and to the operator."""
    print(f"{step}: {done:,} rows" if total is None else f"{step}: {done:,} of {total:,} rows", flush=True)
    percentage = None if total is None else 100 * done // total
    metric = TrainerMetric(name=step.replace(" ", "_"), value=str(done))
    reporter.send(Report(trainer_status=TrainerStatus(progress_percentage=percentage, metrics=[metric])))


def _classes(config: JobConfig, data: Prepared) -> Classes | None:
    """None for other methods than classification."""
    if data.format != "Classification":
        return None
    stated = config.spec.method.classification if config.spec.method else None
    return classes_of(data.files, stated.labels if stated else None)


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
    return base_model.inspect(config.base_model, _base_folder(places), places, method_of(config.spec))


def _tokenizer(config: JobConfig, places: Places, data: Prepared) -> Any:
    stated = config.spec.base_model.from_config
    if stated is not None:
        return train_tokenizer(data.files["train"], stated, places.work_dir / TOKENIZER)
    folder, uri = _base_folder(places), str(config.base_model.uri)
    tokenizer = load_tokenizer(folder, uri)
    base_model.check_vocabulary(tokenizer, folder, uri, method_of(config.spec))
    new_tokens.add(tokenizer, _new_tokens(config))
    return tokenizer


def _new_tokens(config: JobConfig) -> list[str]:
    return (config.spec.adapter.new_tokens if config.spec.adapter else None) or []


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
    report = data_report(checked.data, checked.found, plan.training, checked.sources)
    (places.work_dir / DATA_REPORT).write_bytes(document(report))
    store.put(DATA_PAGE, data_page(report, f"{config.namespace}/{config.name}").encode())
    data_digest = commit_folder(store, places.work_dir / DATA, DATA, Manifest(kind="Data", files=[]))
    resolved = document(
        Resolved(
            namespace=config.namespace,
            name=config.name,
            uid=config.uid,
            method=method,
            method_settings=plan.method,
            format=checked.data.format,
            day=checked.day,
            base_model=checked.base.pinned,
            from_config=config.spec.base_model.from_config,
            reward_model=checked.reward_model,
            dataset=config.spec.dataset,
            splits=splits,
            data_digest=data_digest,
            adapter=plan.adapter,
            training=plan.training,
            evaluation=plan.evaluation,
            forecast=_plan_status(plan, []),
            suites=checked.suites,
            tracking=config.spec.tracking,
            card=config.spec.output.card,
            choices=choices.made,
            output_folder=store.uri(),
        )
    )
    store.put(RESOLVED, resolved)
    status = dataset_status(checked.data, checked.found, [split.statistics for split in splits], digest_of(resolved))
    return Outcome(dataset=status, plan=_plan_status(plan, choices.made))


def _plan_status(plan: Plan, choices: list[Choice]) -> PlanStatus:
    return PlanStatus(choices=choices, steps=plan.training.steps, **plan.forecast._asdict())


def _splits(checked: Checked, plan: Plan, method: str) -> list[PreparedSplit]:
    return [
        PreparedSplit(
            file=f"{DATA}/{path.name}",
            sha256=sha256_of(path),
            statistics=checked.found.lengths[split].statistics(split, plan.training, method),
        )
        for split, path in checked.data.files.items()
    ]
