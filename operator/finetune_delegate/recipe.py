"""The train stage of a delegated job: prepared data in, a tuned, evaluated, recorded model at a provider out.

An attempt may end at any point; the next one goes on from what the provider and the job's folder have.
"""

import os
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from finetune_api.artifacts import RESOLVED, ResolvedDelegation
from finetune_api.pods import JobConfig, Trained
from finetune_api.reasons import Failure, Reason
from finetune_delegate.course import Course
from finetune_delegate.examine import examine
from finetune_delegate.follow import cancel_all, follow, submitted
from finetune_delegate.provider import Provider, Task
from finetune_delegate.publish import Result, publish
from finetune_stage.record import published
from finetune_stage.report import Reporter, destination
from finetune_stage.rows import Splits, fetch_rows, open_output
from finetune_storage import Store

UPLOADED = ("train", "validation")


def provider_of(task: Task) -> Provider:
    """The service the spec names; its library is imported here, when first needed."""
    backend = task.config.spec.backend
    if backend is not None and backend.openai is not None:
        from finetune_delegate.openai_service import OpenAIService

        return OpenAIService(task, backend.openai)
    if backend is not None and backend.vertex is not None:
        from finetune_delegate.vertex_service import VertexService

        return VertexService(task, backend.vertex)
    raise Failure(Reason.CONFIG_INVALID, "spec.backend names no provider; finetune_delegate knows openai and vertex")


def run(task: Task, poll_seconds: float) -> Trained:
    """Carry the stage out, or what an earlier attempt left of it."""
    store = open_output(task.config, task.places)
    if (earlier := published(store)) is not None:
        return earlier
    resolved = read_resolved(store)
    splits = fetch_rows(store, task.places, resolved.splits, resolved.data_digest)
    provider = provider_of(task)
    convert = converter(provider, splits, task.places.work_dir / "converted")
    if task.config.dry_run:
        _dry_run(provider, convert())
    with Reporter(destination(os.environ)) as reporter:
        course = Course(store, task.places.work_dir, reporter)
        job = submitted(provider, store, lambda: _uploaded(provider, convert()), task.patience)
        view = follow(provider, job, course.tell, poll_seconds)
        course.evaluating(view)
        made = provider.made(view)
        evaluation = examine(provider, resolved, splits, made.endpoint or made.model, made.base_model)
        course.store()
        result = Result(made, course.status(view), evaluation, view.steps or course.steps, course.loss)
        return publish(store, resolved, result, task.places.work_dir, image_of(task.config))


def cancel(task: Task) -> list[str]:
    """Cancel the job at the provider; the names of what was asked to end."""
    return cancel_all(provider_of(task), open_output(task.config, task.places))


def read_resolved(store: Store) -> ResolvedDelegation:
    """What the prepare stage decided."""
    try:
        return ResolvedDelegation.model_validate_json(store.get(RESOLVED))
    except ValidationError as error:
        raise Failure(
            Reason.ARTIFACT_CORRUPT, f"{store.uri(RESOLVED)} is not the configuration of a delegated job: {error}"
        ) from None


def converter(provider: Provider, splits: Splits, folder: Path) -> Callable[[], dict[str, Path]]:
    """Writes the rows the provider gets; not called where an earlier attempt has submitted them."""

    def convert() -> dict[str, Path]:
        files = {split: folder / f"{split}.jsonl" for split in UPLOADED if splits.get(split)}
        for split, path in files.items():
            provider.convert(split, splits[split], path)
        return files

    return convert


def _uploaded(provider: Provider, files: dict[str, Path]) -> dict[str, str]:
    return {split: provider.upload(split, path) for split, path in files.items()}


def _dry_run(provider: Provider, files: dict[str, Path]) -> None:
    request = provider.request({split: f"<uploaded {path.name}>" for split, path in files.items()})
    print(request, flush=True)
    raise Failure(Reason.DRY_RUN, f"Dry run, nothing was sent. The request would be: {request}")


def image_of(config: JobConfig) -> str:
    """Image of this pod."""
    return config.delegate_image or config.image
