"""The reward model of a method that learns from scores: checked before anything runs, and loaded beside the model that learns."""

import json
from typing import Any

from pydantic import ValidationError

from finetune_api.artifacts import MANIFEST, RESOLVED, JobRecord, Resolved, ResolvedRewardModel
from finetune_api.model import first_fault
from finetune_api.pods import JobConfig
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_stage.outcome import Places
from finetune_storage import Store, digest_of, fetch_folder, fetch_model, is_model_file
from finetune_storage.folders import parse_manifest
from finetune_trainer.inputs import Inputs
from finetune_trainer.rewards import Answer, Judge
from finetune_trainer.tokenizer import load_tokenizer


def pinned(config: JobConfig, base: ResolvedBaseModel, tokenizer: Any, places: Places) -> ResolvedRewardModel | None:
    """None where no reward model is named. Raises Failure for what is none, or one that reads other tokens than the base."""
    stated = config.reward_model
    if stated is None:
        return None
    folder, _, key = str(stated.uri).rstrip("/").rpartition("/")
    store = places.store(folder, stated.secret_ref, Reason.MODEL_NOT_FOUND)
    manifest = store.get(f"{key}/{MANIFEST}")
    digest = digest_of(manifest)
    if stated.digest not in (None, digest):
        raise Failure(
            Reason.ARTIFACT_CORRUPT, f"{store.uri(f'{key}/{MANIFEST}')} has digest {digest}, expected {stated.digest}"
        )
    resolved = _reward_job(store, str(stated.uri), digest)
    below = parse_manifest(manifest, store.uri(f"{key}/{MANIFEST}")).base_model
    found = ResolvedRewardModel(
        folder=folder,
        key=key,  # the API allows these two
        digest=digest,
        secret_ref=stated.secret_ref,
        adapter=resolved.adapter.type,
        base=below and _readable(below, base, stated),
        max_length=resolved.training.max_length,
    )
    _check_tokenizer(found, tokenizer, str(base.uri), places)
    return found


def _readable(below: ResolvedBaseModel, base: ResolvedBaseModel, stated: ResolvedBaseModel) -> ResolvedBaseModel:
    """Another job's Secrets are not mounted here: its base is read with those that are."""
    return below.model_copy(update={"secret_ref": base.secret_ref if below.uri == base.uri else stated.secret_ref})


def _reward_job(store: Store, uri: str, digest: str) -> Resolved:
    """How the job was carried out that made the artifact. Raises Failure unless its method is reward."""
    record = _record(store)
    if record.artifact.digest != digest:
        raise Failure(Reason.ARTIFACT_CORRUPT, f"{uri} has digest {digest}, its job made {record.artifact.digest}")
    data = store.get(RESOLVED)
    if digest_of(data) != record.resolved_digest:
        raise Failure(
            Reason.ARTIFACT_CORRUPT,
            f"{store.uri(RESOLVED)} has digest {digest_of(data)}, its job's manifest says {record.resolved_digest}",
        )
    method = json.loads(data).get("method")
    if method != "reward":
        raise Failure(
            Reason.CONFIG_INVALID,
            f"rewardModel: {uri} was made by a job of method {method}; name the artifact of a job of method reward",
        )
    try:
        return Resolved.model_validate_json(data)
    except ValidationError as error:
        raise Failure(
            Reason.ARTIFACT_CORRUPT, f"{store.uri(RESOLVED)} is not a resolved configuration: {first_fault(error)}"
        ) from None


def _record(store: Store) -> JobRecord:
    record = parse_manifest(store.get(MANIFEST), store.uri(MANIFEST)).job
    if record is None:
        raise Failure(Reason.CONFIG_INVALID, f"rewardModel: {store.uri()} is no folder of a job")
    return record


def _check_tokenizer(found: ResolvedRewardModel, tokenizer: Any, base: str, places: Places) -> None:
    """It scores the token ids the base writes: both must mean the same by them."""
    folder = places.work_dir / "reward-tokenizer"
    _fetch(found, folder, places, lambda name: is_model_file(name) and not name.endswith(".safetensors"))
    where = found.base.uri if found.base else f"{found.folder}/{found.key}"
    own = load_tokenizer(folder / ("base" if found.base else found.key), str(where))
    if _meaning(own) != _meaning(tokenizer):
        raise Failure(
            Reason.CONFIG_INVALID,
            f"rewardModel: {found.folder}/{found.key} reads the tokens of {where} ({len(own)} of them), and this job's base {base} "
            f"writes others ({len(tokenizer)}); name a reward model that was trained on a base with the same tokenizer",
        )


def _meaning(tokenizer: Any) -> Any:
    """What its ids stand for, and how it comes to them."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    return tokenizer.get_vocab(), rules.get("model"), rules.get("pre_tokenizer"), rules.get("normalizer")


def _fetch(found: ResolvedRewardModel, folder: Any, places: Places, wanted: Any) -> None:
    """The artifact's files to ``folder``/key, and of an adapter its base's to ``folder``/base, all verified."""
    store = places.store(found.folder, found.secret_ref, Reason.MODEL_NOT_FOUND)
    fetch_folder(store, found.key, folder / found.key, found.digest, wanted)
    if found.base is not None:
        secret = places.secret(found.base.secret_ref)
        fetch_model(found.base, folder / "base", secret, wanted=wanted, secret_wait=places.secret_wait)


def scorer(inputs: Inputs, device: str) -> Judge | None:
    """The reward model's scores of answers, read at their ends; None where there is no reward model."""
    found = inputs.resolved.reward_model
    if found is None:
        return None
    import torch

    from finetune_trainer.head import load_scorer, text_scores

    folder = inputs.work / "reward-model"
    _fetch(found, folder, inputs.places, is_model_file)
    with torch.random.fork_rng():
        model = load_scorer(folder / found.key, folder / "base" if found.base else None, device, found.adapter)
    most = found.max_length

    def scores(answers: list[Answer]) -> list[float]:
        with torch.no_grad():
            texts = [(answer.prompt_ids + answer.ids)[-most:] for answer in answers]
            return [score.item() for score in text_scores(model, texts)]

    return scores
