"""Hyperparameters that do not go with a method or a machine are refused before anything is created."""

from typing import Any

import pytest

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.reconcile.finetunejob.checks import BEFORE_START, first_finding

GPU = {"kubernetes": {"gpus": 1}}


def finding(**fields: Any) -> str | None:
    base: dict[str, Any] = {
        "baseModel": {"uri": "s3://models/base"},
        "dataset": {"train": {"uri": "s3://data/train.jsonl"}},
        "output": {"uri": "s3://models"},
    }
    found = first_finding(BEFORE_START, FineTuneJobSpec.model_validate(base | fields))
    return found.message if found else None


@pytest.mark.parametrize("field", ["neftuneAlpha", "labelSmoothing"])
def test_what_is_for_sft_only(field: str) -> None:
    stated = {field: 0.5}
    assert finding(training=stated) is None
    said = finding(training=stated, method={"dpo": {}})
    assert said == f"training.{field} is for method sft, not dpo: leave it out."


@pytest.mark.parametrize("optimizer", ["AdamW8bit", "PagedAdamW8bit"])
def test_moments_in_8_bits_need_a_gpu(optimizer: str) -> None:
    said = finding(training={"optimizer": optimizer})
    assert said is not None
    assert "needs a GPU: set backend.kubernetes.gpus, or use AdamW or Adafactor" in said
    assert finding(training={"optimizer": optimizer}, backend=GPU) is None


def test_a_batch_of_rows_can_be_left_out_in_one_process() -> None:
    skips = {"onNonFiniteLoss": "SkipBatch"}
    assert finding(training=skips, backend=GPU) is None
    assert "learns from answers it samples: use Fail" in str(finding(training=skips, method={"grpo": {}}))
    assert "for one process: use Fail" in str(finding(training=skips, backend={"kubernetes": {"nodes": 2}}))
    assert finding(training={"onNonFiniteLoss": "Fail"}, backend={"kubernetes": {"nodes": 2}}) is None


def test_a_learning_rate_is_searched_for_by_the_training_loss_in_one_process() -> None:
    searches = {"learningRateSearch": {}}
    assert finding(training=searches, backend=GPU) is None
    assert "which method ppo does not lower" in str(finding(training=searches, method={"ppo": {}}))
    assert "for one process: leave it out" in str(finding(training=searches, backend={"kubernetes": {"nodes": 2}}))


@pytest.mark.parametrize("method", ["kto", "ppo", "grpo"])
def test_methods_whose_batches_cannot_be_shared_take_one_process(method: str) -> None:
    several = {"kubernetes": {"nodes": 2}}
    assert finding(backend=several) is None
    said = finding(backend=several, method={method: {}})
    assert said is not None
    assert said.startswith(
        f"method {method} looks at answers together, and several processes would each see a part of them"
    )
    assert finding(backend=GPU, method={method: {}}) is None


def test_new_tokens_are_learned_in_one_process_and_not_served_beside_others() -> None:
    brings = {"type": "DoRA", "newTokens": ["<tool>"]}
    assert finding(adapter=brings, backend=GPU) is None
    said = finding(adapter=brings, backend={"kubernetes": {"gpus": 2}})
    assert said is not None
    assert said.startswith("adapter.newTokens are supported for one process")
    said = finding(adapter=brings, deploy={"name": "bot"})
    assert said is not None
    assert "one with adapter.newTokens cannot be served so" in said
    assert finding(adapter={"type": "DoRA"}, deploy={"name": "bot"}) is None


def test_spread_weights_are_for_adamw() -> None:
    several = {"kubernetes": {"gpus": 2}}
    said = finding(backend=several, adapter={"type": "Full"}, training={"optimizer": "AdamW8bit"})
    assert said is not None
    assert "knows no weights that are spread over several processes" in said
    assert finding(backend=several, adapter={"type": "Full"}) is None
    said = finding(backend=several, adapter={"type": "Full"}, method={"dpo": {}})
    assert said is not None
    assert said.startswith("method dpo with adapter Full cannot be spread over several processes yet")
    assert finding(backend=several, training={"optimizer": "AdamW8bit"}) is None, "an adapter is on every GPU"


def test_others_do_not() -> None:
    assert finding(training={"optimizer": "Adafactor", "scheduler": "WSD", "decayRatio": 0.2}) is None


@pytest.mark.parametrize(
    "training", [{"earlyStopping": {"patience": 2}}, {"publishBest": True}, {"evaluateEverySteps": 5}]
)
def test_what_goes_by_the_validation_loss_needs_rows_and_a_method_that_lowers_it(training: dict[str, Any]) -> None:
    [field] = training
    split = {"train": {"uri": "s3://data/train.jsonl"}, "split": {"validation": 0.1}}
    assert finding(training=training, dataset=split) is None
    assert finding(training={"publishBest": False}) is None
    assert finding(training=training) == (
        f"training.{field} goes by the loss on validation rows: set dataset.validation or dataset.split.validation."
    )
    assert finding(training=training, dataset=split, method={"kto": {}}) is None
    assert finding(training=training, dataset=split, method={"dpo": {}}, backend={"kubernetes": {"gpus": 2}}) is None
    reward = {"rewards": [{"regex": {"pattern": "x"}}]}
    for method in ("ppo", "grpo"):
        said = finding(training=training, dataset=split, method={method: reward})
        assert said == (
            f"training.{field} goes by the loss on validation rows, which is not what method {method} lowers: leave it out. "
            "It is supported for sft, cpt, dpo, kto, orpo, reward, classification."
        )
