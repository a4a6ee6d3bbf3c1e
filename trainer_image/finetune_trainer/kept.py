"""Outcomes that are taken once for all attempts: beside a checkpoint's weights, those of the base and what was scored on it are gone."""

import json
from collections.abc import Callable

from finetune_api.artifacts import CHECKPOINTS
from finetune_stage.scores import RowScore
from finetune_storage import Store


def kept_scores(store: Store, name: str, score: Callable[[], list[RowScore]]) -> list[RowScore]:
    """Those of an earlier attempt, else new ones; ``name`` is that of a file beside the checkpoints."""
    key = f"{CHECKPOINTS}/{name}.json"
    if store.exists(key):
        return [RowScore.model_validate(item) for item in json.loads(store.get(key))]
    found = score()
    store.put(key, json.dumps([each.wire() for each in found]).encode())
    return found
