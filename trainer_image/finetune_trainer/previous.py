"""The adapter that serves today: checked before anything runs, and scored on the held-out rows before anything is learned."""

import json
from collections.abc import Callable
from typing import Any

from finetune_api.artifacts import MANIFEST
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.references import EarlierAdapter
from finetune_stage.outcome import Places
from finetune_stage.scores import RowScore
from finetune_storage import Store, digest_of, fetch_folder
from finetune_storage.folders import parse_manifest
from finetune_trainer.inputs import Inputs
from finetune_trainer.kept import kept_scores

CONFIG = "adapter_config.json"


def pinned(
    stated: EarlierAdapter, base: ResolvedBaseModel, places: Places, field: str = "evaluation.previous"
) -> EarlierAdapter:
    """With its digest. Raises Failure for what is no adapter of this base; ``field`` is what it is called then."""
    store = store_of(stated, places)
    data = store.get(MANIFEST)
    if stated.digest is not None and digest_of(data) != stated.digest:
        raise Failure(
            Reason.ARTIFACT_CORRUPT, f"{store.uri(MANIFEST)} has digest {digest_of(data)}, expected {stated.digest}"
        )
    manifest = parse_manifest(data, store.uri(MANIFEST))
    made_for = manifest.base_model
    if manifest.kind != "Adapter" or made_for is None:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{field}: {stated.uri} holds a {manifest.kind}, no adapter of a base model",
        )
    if _identity(made_for) != _identity(base):
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{field}: {stated.uri} was made for {made_for.uri} ({_identity(made_for)}), and this job starts from "
            f"{base.uri} ({_identity(base)}); name an adapter of the same base",
        )
    if json.loads(store.get(CONFIG)).get("trainable_token_indices"):
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{field}: {stated.uri} brings new tokens, and reads other ones than the base; name an adapter without adapter.newTokens",
        )
    return stated.model_copy(update={"digest": digest_of(data)})


def _identity(base: ResolvedBaseModel) -> str:
    """What tells two bases apart: the bytes where they are known, else the address and its revision."""
    return base.digest or f"{base.uri}@{base.revision}"


def scores(model: Any, inputs: Inputs, score: Callable[[Any], list[RowScore]]) -> list[RowScore] | None:
    """The outcomes; the model is afterwards as it was. None where no adapter is named."""
    stated = inputs.resolved.evaluation.previous
    if stated is None:
        return None

    def scored() -> list[RowScore]:
        print("evaluating the previous adapter", flush=True)
        folder = inputs.work / "previous"
        fetch_folder(store_of(stated, inputs.places), "", folder, stated.digest)
        return _scored(model, str(folder), score)

    return kept_scores(inputs.store, "previous-scores", scored)


def _scored(model: Any, folder: str, score: Callable[[Any], list[RowScore]]) -> list[RowScore]:
    import torch
    from peft import PeftModel

    learns = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with torch.random.fork_rng():
        wrapped = PeftModel.from_pretrained(model, folder)
        found = score(wrapped)
        if wrapped.active_peft_config.is_prompt_learning:
            wrapped.get_base_model()
        else:
            wrapped.unload()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learns[name])
    if hasattr(model, "peft_config"):
        del model.peft_config
    return found


def store_of(stated: EarlierAdapter, places: Places) -> Store:
    """Its folder."""
    return places.store(str(stated.uri), stated.secret_ref, Reason.MODEL_NOT_FOUND)
