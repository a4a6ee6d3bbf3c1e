"""Base models that the prepare stage refuses before anything is trained."""

import json
from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_storage import Store
from prepare_stage import Prepare, answers


class TestBaseModel:
    def test_a_missing_model(self, prepare: Prepare, bucket: str) -> None:
        model = {"uri": f"{bucket}/nowhere", "secretRef": {"name": "s3"}}
        assert f"{bucket}/nowhere" in prepare(answers(), baseModel=model).failure(Reason.MODEL_NOT_FOUND)

    @pytest.mark.parametrize(
        ("change", "reason", "words"),
        [
            pytest.param({"model_type": "unheard"}, Reason.MODEL_NOT_FOUND, "unheard", id="an unknown architecture"),
            pytest.param({"model_type": "t5"}, Reason.MODEL_NOT_FOUND, "causal language model", id="no causal model"),
            pytest.param({"auto_map": {"A": "b.C"}}, Reason.CONFIG_INVALID, "never run", id="code of its own"),
            pytest.param({"vocab_size": 17}, Reason.MODEL_NOT_FOUND, "vocab_size 17", id="too small a vocabulary"),
        ],
    )
    def test_a_config_that_cannot_be_trained(
        self, prepare: Prepare, store: Store, change: dict[str, Any], reason: Reason, words: str
    ) -> None:
        config = json.loads(store.get("base/config.json"))
        if "model_type" in change:
            config.pop("architectures", None)
        store.put("base/config.json", json.dumps(config | change).encode())
        assert words in prepare(answers()).failure(reason)

    def test_another_model_than_the_stated_digest(self, prepare: Prepare, store: Store, base: str) -> None:
        model = {"uri": base, "secretRef": {"name": "s3"}, "digest": f"sha256:{0:064}"}
        assert "has no manifest.json" in prepare(answers(), baseModel=model).failure(Reason.MODEL_NOT_FOUND)
        store.put("base/manifest.json", b'{"kind": "Model", "files": []}')
        message = prepare(None, baseModel=model).failure(Reason.ARTIFACT_CORRUPT)
        assert f"expected sha256:{0:064}" in message

    def test_pickles_are_not_weights(self, prepare: Prepare, store: Store) -> None:
        store.delete(["base/model.safetensors"])
        store.put("base/pytorch_model.bin", b"pickle")
        assert "found pytorch_model.bin" in prepare(answers()).failure(Reason.MODEL_NOT_FOUND)

    def test_python_files_are_refused(self, prepare: Prepare, store: Store) -> None:
        store.put("base/modeling.py", b"")
        assert "modeling.py" in prepare(answers()).failure(Reason.CONFIG_INVALID)

    def test_longer_than_the_model_can(self, prepare: Prepare) -> None:
        message = prepare(answers(), training={"maxLength": 4096}).failure(Reason.CONFIG_INVALID)
        assert "4096" in message
        assert "256" in message

    def test_positions_that_an_architecture_never_uses_are_not_counted(self, prepare: Prepare, store: Store) -> None:
        config = json.loads(store.get("base/config.json")) | {"model_type": "roberta", "pad_token_id": 3}
        del config["architectures"]
        store.put("base/config.json", json.dumps(config).encode())
        message = prepare(answers(), training={"maxLength": 256}).failure(Reason.CONFIG_INVALID)
        assert "the base model has 252 positions" in message
