"""The train stage of a delegated job: prepared data in, a tuned, evaluated, recorded model at a provider out.

An attempt may end at any point; the next one goes on from what the provider and the job's folder have.
"""

import os
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from finetune_api.artifacts import RESOLVED, InPlace, ResolvedDelegation
from finetune_api.pods import JobConfig, Shown, Trained
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.provider import OpenAIBackend, VertexBackend
from finetune_delegate.course import Course
from finetune_delegate.examine import examine, forget
from finetune_delegate.follow import cancel_all, follow, submitted
from finetune_delegate.provider import Provider, Task
from finetune_delegate.publish import Result, publish
from finetune_stage.provider_rows import SENT, lines, shape_of
from finetune_stage.record import published
from finetune_stage.report import Reporter, destination
from finetune_stage.rows import Splits, fetch_rows, open_output
from finetune_storage import Store


def backend_of(task: Task) -> VertexBackend | OpenAIBackend:
    """The provider's settings."""
    stated = task.config.spec.backend
    backend = (stated.vertex or stated.openai) if stated else None
    if backend is None:
        raise Failure(
            Reason.CONFIG_INVALID, "spec.backend names no provider; finetune_delegate knows openai and vertex"
        )
    return backend


def provider_of(task: Task) -> Provider:
    """The service the spec names; its library is imported here, when first needed."""
    backend = backend_of(task)
    if isinstance(backend, OpenAIBackend):
        from finetune_delegate.openai_service import OpenAIService

        return OpenAIService(task, backend)
    from finetune_delegate.vertex_service import VertexService

    return VertexService(task, backend)


def run(task: Task, poll_seconds: float) -> Trained | Shown:
    """Carry the stage out, or what an earlier attempt left of it; a dry run shows the request."""
    store = open_output(task.config, task.places)
    if (earlier := published(store)) is not None:
        return earlier
    resolved = read_resolved(store)
    splits = fetch_rows(store, task.places, resolved.splits, resolved.data_digest)
    provider = provider_of(task)
    sent = {split: rows for split, rows in splits.items() if split not in {each.split for each in resolved.in_place}}
    convert = partial(converted, task, sent, task.places.work_dir / "converted")
    if task.config.dry_run:
        return _dry_run(provider, convert(), resolved.in_place)
    with Reporter(destination(os.environ)) as reporter:
        course = Course(store, task.places.work_dir, reporter)
        job = submitted(provider, store, lambda: _uploaded(provider, convert(), resolved.in_place), task.patience)
        view = follow(provider, job, course.tell, poll_seconds)
        course.evaluating(view)
        made = provider.made(view)
        evaluation = examine(provider, store, resolved, splits, made.endpoint or made.model, made.base_model)
        course.store()
        result = Result(made, course.status(view), evaluation, view.steps or course.steps, course.loss)
        trained = publish(store, resolved, result, task.places.work_dir, image_of(task.config))
        forget(store)
        return trained


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


def converted(task: Task, splits: Splits, folder: Path) -> dict[str, Path]:
    """Writes the rows the provider gets; not called where an earlier attempt has submitted them."""
    shape = shape_of(backend_of(task))
    files: dict[str, Path] = {split: folder / f"{split}.jsonl" for split in SENT if splits.get(split)}
    for split, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(lines(shape, split, splits[split]))
    return files


def _uploaded(provider: Provider, files: dict[str, Path], kept: list[InPlace]) -> dict[str, str]:
    lying: dict[str, str] = {each.split: provider.unchanged(each) for each in kept}
    return lying | {split: provider.upload(split, path) for split, path in files.items()}


def _dry_run(provider: Provider, files: dict[str, Path], kept: list[InPlace]) -> Shown:
    lying: dict[str, str] = {each.split: each.uri for each in kept}
    request = provider.request(lying | {split: f"<uploaded {path.name}>" for split, path in files.items()})
    print(request, flush=True)
    return Shown(message=request)


def image_of(config: JobConfig) -> str:
    """Image of this pod."""
    return config.delegate_image or config.image
