"""What is checked before an adapter reaches the model server."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import Manifest
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.references import ModelRef
from finetune_gateway.artifact import Limits, LoadFailure, check_adapter

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def verdict(
    folder: Path,
    *,
    kind: str = "Adapter",
    config: dict[str, Any] | str | None = None,
    trained: dict[str, str] | None = None,
    serves: dict[str, str] | None = None,
) -> tuple[str, str] | None:
    text = config if isinstance(config, str) else json.dumps({"peft_type": "LORA", "r": 8} | (config or {}))
    (folder / "adapter_config.json").write_text(text)
    manifest = Manifest.model_validate({"kind": kind, "files": [], "base_model": ResolvedBaseModel(**(trained or {}))})
    try:
        check_adapter(folder, manifest, Limits(ModelRef(**({"uri": "s3://m/base"} | (serves or {}))), 16))
    except LoadFailure as failure:
        return failure.reason, failure.message
    return None


@pytest.mark.parametrize(
    ("given", "reason", "names"),
    [
        pytest.param({"kind": "Model"}, "AdapterInvalid", ["Model", "Adapter"], id="a whole model"),
        pytest.param({"config": "{"}, "AdapterInvalid", ["adapter_config.json"], id="a broken configuration"),
        pytest.param({"config": "[]"}, "AdapterInvalid", ["adapter_config.json"], id="a list as configuration"),
        pytest.param({"config": {"peft_type": "IA3"}}, "AdapterInvalid", ["IA3", "LORA"], id="another kind of adapter"),
        pytest.param({"config": {"r": 17}}, "RankTooHigh", ["17", "16"], id="a rank above the server's"),
        pytest.param(
            {"config": {"rank_pattern": {"q_proj": 32}}}, "RankTooHigh", ["32", "16"], id="a layer's rank counts too"
        ),
        pytest.param(
            {"config": {"trainable_token_indices": {"embed_tokens": [7]}}},
            "AdapterInvalid",
            ["new tokens", "trainable_token_indices", "share the vocabulary"],
            id="tokens of its own",
        ),
        pytest.param({"config": {"r": "many"}}, "AdapterInvalid", ["many"], id="a rank that is no number"),
        pytest.param(
            {"trained": {"uri": "s3://m/other"}},
            "BaseModelMismatch",
            ["s3://m/other", "s3://m/base"],
            id="another base",
        ),
        pytest.param(
            {"trained": {"uri": "s3://m/base", "digest": A}, "serves": {"digest": B}},
            "BaseModelMismatch",
            [A, B],
            id="another base at the same address",
        ),
        pytest.param(
            {"trained": {"uri": "s3://m/base", "revision": "1"}, "serves": {"revision": "2"}},
            "BaseModelMismatch",
            ["at 1", "at 2"],
            id="another revision",
        ),
    ],
)
def test_refused(tmp_path: Path, given: dict[str, Any], reason: str, names: list[str]) -> None:
    found = verdict(tmp_path, **given)
    assert found is not None
    assert found[0] == reason
    assert [name for name in names if name not in found[1]] == []


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({}, id="nothing known of the base"),
        pytest.param({"config": {"r": 16, "rank_pattern": None}}, id="the highest rank"),
        pytest.param({"trained": {"uri": "s3://m/base/"}}, id="the same address"),
        pytest.param(
            {"trained": {"uri": "s3://copy/base", "digest": A}, "serves": {"digest": A}}, id="the same bytes elsewhere"
        ),
        pytest.param({"trained": {"uri": "s3://m/base", "digest": A}}, id="a digest only one side knows"),
    ],
)
def test_accepted(tmp_path: Path, given: dict[str, Any]) -> None:
    assert verdict(tmp_path, **given) is None
