"""Answers a trained model writes, beside their references: every metric of them, in evaluation.json and in the gate."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.matrix import LATENCIES, ON_REQUEST
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.evaluation import AnswerFormat, EvaluationSpec, GateRule
from finetune_api.v1alpha1.reinforcement import RegexReward
from finetune_api.v1alpha1.training import MethodSpec
from finetune_stage.rows import Row
from finetune_trainer import answering, compare, evaluate
from finetune_trainer.encode import encoder
from finetune_trainer.evaluate import score
from finetune_trainer.exam import Exam
from finetune_trainer.machine import Numerics
from finetune_trainer.rewards import Answer
from prepared_jobs import (
    COLOURS,
    LORA,
    PPO,
    ROWS,
    colour_rows,
    job_store,
    preferences,
    prepare_job,
    train_here,
    training,
)
from published_models import published
from tiny_models import write_tiny_llama

METHODS = {"ppo": MethodSpec(ppo=PPO)}
EVALUATION = EvaluationSpec(
    metrics=["ExactMatch", *ON_REQUEST],
    answer_format=AnswerFormat(regex=RegexReward(pattern=f"^ ?({'|'.join(COLOURS)})$")),
    max_new_tokens=8,
    gate=[
        GateRule(metric="Chrf", min_delta_versus_base=5),
        GateRule(metric="FormatCompliance", min=0.9, beats=["Base"]),
        GateRule(metric="LatencyP95Seconds", max=60),
    ],
)


def test_every_metric_of_written_answers_is_computed_and_gated(bucket: str, secret: Path, tmp_path: Path) -> None:
    settings = training(
        steps=60, batch_size=8, micro_batch_size=4, checkpoint_every_steps=60, learning_rate=2e-2, max_length=96
    )
    config = prepare_job(bucket, secret.parent, ROWS, adapter=LORA, settings=settings, evaluation=EVALUATION)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.evaluation is not None
    assert trained.evaluation.base is not None
    tuned, base = trained.evaluation.tuned, trained.evaluation.base
    assert tuned.keys() == base.keys() == {"ExactMatch", *ON_REQUEST}
    assert tuned["ExactMatch"] == tuned["FormatCompliance"] == tuned["TokenF1"] == tuned["RougeL"] == 1.0
    assert tuned["Chrf"] == 100 > base["Chrf"]
    assert tuned["Bleu"] == 0, "no answer has four tokens"
    assert 0 < tuned["LatencyP50Seconds"] <= tuned["LatencyP95Seconds"]
    assert trained.gate_passed, trained.evaluation.gate
    stored = published(config, secret)
    assert all(score.values and score.terms and score.seconds for score in stored.tuned)
    assert stored.gains is not None
    assert stored.gains.keys() == tuned.keys() - {*LATENCIES}
    assert all(gain.low - 1e-9 <= gain.value <= gain.high + 1e-9 for gain in stored.gains.values())
    assert stored.gains["Chrf"].value == tuned["Chrf"] - base["Chrf"]
    assert (stored.cut_prompts, stored.gains_on_previous) == (0, None)
    for name in ("report.html", "adapter/README.md"):
        shown = job_store(config, secret.parent).get(name).decode()
        assert stored.gains["Chrf"].of_change("Chrf") in shown


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with 256 positions, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_tiny_llama(tmp_path_factory.mktemp("tiny"))
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def an_exam(tokenizer: Any, rows: list[dict[str, str]], **changes: Any) -> Exam:
    encode = encoder(tokenizer, "PromptCompletion", answers_only=True)
    usual: dict[str, Any] = {
        "metrics": frozenset({"ExactMatch"}),
        "labels": (),
        "max_length": 48,
        "max_new_tokens": 2,
        "stop_tokens": [tokenizer.eos_token_id],
    }
    held_out = [Row(str(place), fields) for place, fields in enumerate(rows)]
    return Exam(encode, "test", held_out, **(usual | changes))


def test_a_reward_model_scores_in_its_own_arithmetic(tiny: Any) -> None:
    model, tokenizer = tiny
    seen = []

    def judge(answers: list[Answer]) -> list[float]:
        seen.append(torch.is_autocast_enabled("cpu"))
        return [1.0] * len(answers)

    exam = an_exam(tokenizer, colour_rows(2), metrics=frozenset({"Reward"}), judge=judge)
    assert [each.reward for each in score(model, exam, Numerics("cpu", bf16=True))] == [1.0, 1.0]
    assert seen == [False]


def test_labels_are_tried_on_some_rows_at_a_time(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny
    exam = an_exam(tokenizer, colour_rows(7), metrics=frozenset({"Accuracy"}), labels=tuple(COLOURS))
    whole = score(model, exam, Numerics("cpu", bf16=False))
    sizes, likelihoods = [], evaluate.likelihoods

    def counted(model: Any, examples: list[Any]) -> list[tuple[float, int]]:
        sizes.append(len(examples))
        return likelihoods(model, examples)

    monkeypatch.setattr(evaluate, "likelihoods", counted)
    monkeypatch.setattr(evaluate, "CANDIDATES", 2 * len(COLOURS))
    found = score(model, exam, Numerics("cpu", bf16=False))
    assert sizes == [7, *[2 * len(COLOURS)] * 3, len(COLOURS)], "the rows themselves, then two rows at a time"
    assert [each.predicted for each in found] == [each.predicted for each in whole]


def test_a_prompt_is_read_whole_however_short_the_training_rows_are(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many tokens as the base can read but for the answer: of 256 positions with 16 virtual tokens and 40 of an answer 200."""
    model, tokenizer = tiny
    rows = [{"prompt": f"{'x' * 160} {place}", "completion": " red"} for place in range(3)]
    rows.append({"prompt": "y" * 300, "completion": " red"})
    exam = an_exam(tokenizer, rows, max_new_tokens=40, virtual_tokens=16)
    asked = [answer.prompt_ids for answer in answering.written(model, exam)]
    whole = [exam.encoder.prompt(row) for row in rows]
    assert exam.max_length < len(whole[0]) < 200 < len(whole[3])
    assert asked == [*whole[:3], whole[3][-200:]]
    assert answering.cut_prompts(model, exam) == 1
    assert "1 of 4 prompts of test are read from their last 200 tokens on" in capsys.readouterr().out
    monkeypatch.setattr(answering, "positions", lambda _: None)
    assert answering.cut_prompts(model, exam) == 0, "a base without a limit"


def test_a_row_of_another_task_may_be_longer_than_a_batch(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny
    rows = [{"prompt": "x" * 100 * many, "completion": " red" * 20 * many} for many in (1, 2)]
    exam = an_exam(tokenizer, rows, metrics=frozenset({"Loss"}), max_length=256)
    whole = score(model, exam, Numerics("cpu", bf16=False))
    monkeypatch.setitem(evaluate.LOGIT_BYTES, "cpu", 4 * 320 * 7)
    seen = []
    cross_entropy = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional,
        "cross_entropy",
        lambda logits, *rest, **named: seen.append(len(logits)) or cross_entropy(logits, *rest, **named),
    )
    found = score(model, exam, Numerics("cpu", bf16=False))
    assert [each.nll for each in found] == pytest.approx([each.nll for each in whole], rel=1e-6)
    assert max(seen) == 7


def test_logits_take_at_most_a_quarter_of_the_memory_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the allocator keeps for later is left too."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3 * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * gib)
    for free, expected in [(60 * gib, 2 * gib), (3 * gib, gib), (0, gib // 4)]:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 80 * gib))
        assert evaluate.logit_bytes(torch.device("cuda")) == expected


@pytest.mark.parametrize("method", ["sft", "ppo", "dpo"])
def test_the_optimizers_moments_are_gone_when_the_tuned_model_is_evaluated(
    bucket: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    seen: list[int] = []
    compared = compare.compare

    def counted(*everything: Any) -> Any:
        optimizers = [each for each in gc.get_objects() if isinstance(each, torch.optim.Optimizer)]
        seen.append(sum(bool(each.state) for each in optimizers))
        return compared(*everything)

    monkeypatch.setattr(compare, "compare", counted)
    rows = preferences if method == "dpo" else colour_rows
    config = prepare_job(
        bucket,
        secret.parent,
        {"train": rows(8), "test": rows(2, 200)},
        method=method,
        method_settings=METHODS.get(method),
        settings=training(steps=2),
    )
    train_here(config, secret.parent, tmp_path / "work")
    assert seen == [0]


def test_running_out_of_memory_in_the_evaluation_says_what_helps_there(
    bucket: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "base_scores", lambda *_: torch.empty(2**50))
    config = prepare_job(bucket, secret.parent, {"train": colour_rows(8), "test": colour_rows(2, 200)})
    with pytest.raises(Failure, match=r"a larger GPU .*generation.maxRows") as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert "microBatchSize" not in caught.value.message
