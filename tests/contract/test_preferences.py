"""Methods that learn which of two answers is better: they learn it, and their files alone give the same figures."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.evaluation import EvaluationSpec, GateRule
from finetune_api.v1alpha1.methods import DpoMethod, RewardMethod
from finetune_api.v1alpha1.training import MethodSpec
from finetune_stage.scores import RowScore
from finetune_trainer import methods
from finetune_trainer.encode import Encoder, Pair
from prepared_jobs import colour_chats, preferences, prepare_job, train_here, training, verdicts
from published_models import ADAPTERS, loaded, published, scores
from tiny_models import tiny_tokenizer, write_tiny_llama

LORA = ADAPTERS[1].values[0]
LEARNERS = ADAPTERS[1:2]
"""With the others, test_matrix.py tries every method."""
ROWS = {"train": preferences(96), "test": preferences(24, 200)}
PREFERRED = EvaluationSpec(
    metrics=["Loss", "PreferenceAccuracy", "RewardMargin"],
    gate=[GateRule(metric="PreferenceAccuracy", min=0.9, beats=["Base"])],
)


def settings(rate: float, **changes: Any) -> Any:
    return training(
        **(
            {"steps": 40, "checkpoint_every_steps": 20, "batch_size": 8, "micro_batch_size": 8, "learning_rate": rate}
            | changes
        )
    )


def chats() -> dict[str, Any]:
    """The same preferences as messages."""

    def rows(count: int, first: int) -> list[dict[str, Any]]:
        asked = [row["messages"][:1] for row in colour_chats(count, first)]
        sides = [
            {side: [{"role": "assistant", "content": row[side].strip()}] for side in ("chosen", "rejected")}
            for row in preferences(count, first)
        ]
        return [{"prompt": prompt, **both} for prompt, both in zip(asked, sides, strict=True)]

    return {"train": rows(96, 0), "test": rows(24, 200)}


def assert_same(found: list[RowScore], stored: list[RowScore]) -> None:
    assert [(each.id, each.tokens) for each in found] == [(each.id, each.tokens) for each in stored]
    for name in ("nll", "margin"):
        assert [getattr(each, name) for each in found] == pytest.approx(
            [getattr(each, name) for each in stored], abs=1e-3
        )


@pytest.mark.parametrize(
    ("method", "format_", "rows"), [("dpo", "Preference", preferences(40)), ("kto", "Unpaired", verdicts(40))]
)
def test_the_reference_is_asked_only_about_what_is_learned_from(method: str, format_: Any, rows: list[Any]) -> None:
    encoder = Encoder(tiny_tokenizer(), format_, True, None)

    def numbers(steps: int) -> list[int]:
        resolved: Any = SimpleNamespace(training=settings(1e-3, steps=steps))
        return list(methods.load(method).dataset(encoder, rows, resolved)["row"])

    few = numbers(2)
    assert len(set(few)) == len(few) == 16
    assert few == numbers(2), "by the seed"
    assert sorted(few) != list(range(16)), "not the first ones"
    assert sorted(numbers(20)) == list(range(len(rows))), "of more than an epoch all"


class TestDpo:
    @pytest.mark.parametrize(("adapter", "rate"), LEARNERS)
    def test_the_chosen_answer_is_preferred_and_the_files_alone_do_so_too(
        self, bucket: str, secret: Path, tmp_path: Path, adapter: ResolvedAdapterSpec, rate: float
    ) -> None:
        base = write_tiny_llama(tmp_path / "base", hidden_size=64)
        config = prepare_job(
            bucket,
            secret.parent,
            ROWS,
            method="dpo",
            method_settings=MethodSpec(dpo=DpoMethod(beta=0.1)),
            adapter=adapter,
            settings=settings(rate),
            evaluation=PREFERRED,
            base=base,
        )
        trained = train_here(config, secret.parent, tmp_path / "work")
        assert trained.gate_passed, trained.evaluation
        assert trained.loss is not None
        assert trained.loss < math.log(2) / 2, "without a difference to the reference it is ln 2"
        model, tokenizer = loaded(config, secret, tmp_path, base)
        assert_same(scores(model, tokenizer, ROWS["test"], config, secret), published(config, secret).tuned)
        if adapter.type != "Full":
            with model.disable_adapter():
                found = scores(model, tokenizer, ROWS["test"], config, secret)
            assert_same(found, published(config, secret).base or [])

    def test_preferences_may_be_messages(self, bucket: str, secret: Path, tmp_path: Path) -> None:
        config = prepare_job(
            bucket,
            secret.parent,
            chats(),
            method="dpo",
            adapter=LORA,
            settings=settings(2e-2),
            evaluation=PREFERRED,
        )
        trained = train_here(config, secret.parent, tmp_path / "work")
        assert trained.evaluation is not None
        assert trained.evaluation.tuned["PreferenceAccuracy"] > (trained.evaluation.base or {})["PreferenceAccuracy"]

    def test_every_loss_is_one_the_library_knows(self, bucket: str, secret: Path, tmp_path: Path) -> None:
        from typing import get_args

        from finetune_api.v1alpha1.methods import DpoLoss

        every = list(get_args(DpoLoss))
        stated = DpoMethod(loss_types=every, loss_weights=[0.1] * len(every), label_smoothing=0.1)
        config = prepare_job(
            bucket,
            secret.parent,
            ROWS,
            method="dpo",
            method_settings=MethodSpec(dpo=stated),
            settings=training(steps=2),
        )
        assert train_here(config, secret.parent, tmp_path / "work").steps == 2

    def test_the_reference_answers_without_dropout(self, tmp_path: Path) -> None:
        from transformers import AutoModelForCausalLM

        from finetune_trainer.adapter import add_adapter
        from finetune_trainer.machine import Numerics
        from finetune_trainer.preferences import log_probabilities

        base = AutoModelForCausalLM.from_pretrained(write_tiny_llama(tmp_path / "base"))
        spec = ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.5)
        model = add_adapter(base, spec, seed=1).train()
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_()
        pairs = [Pair([5, 6, 7], [8, 9], [10, 11])]
        first, again = (log_probabilities(model, pairs, Numerics("cpu", bf16=False)) for _ in range(2))
        assert first == again
        assert model.training, "dropout is the training's again"

    def test_without_a_difference_within_the_length_there_is_nothing_to_learn(
        self, bucket: str, secret: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = {"train": [{"prompt": "a", "chosen": "same beginning, good", "rejected": "same beginning, bad"}] * 4}
        config = prepare_job(bucket, secret.parent, rows, method="dpo", settings=training(steps=2, max_length=8))
        with pytest.raises(Failure, match=r"two different answers within training\.maxLength \(8\)") as caught:
            train_here(config, secret.parent, tmp_path / "work")
        assert caught.value.reason is Reason.DATA_INVALID
        rows["train"] += ROWS["train"][:4]
        config = prepare_job(bucket, secret.parent, rows, method="dpo", settings=training(steps=2, max_length=16))
        train_here(config, secret.parent, tmp_path / "again")
        assert "preferences left out: no difference within 16 tokens" in capsys.readouterr().out


class TestReward:
    @pytest.mark.parametrize(("adapter", "rate"), LEARNERS)
    def test_the_chosen_answer_scores_higher_and_the_files_alone_say_so_too(
        self, bucket: str, secret: Path, tmp_path: Path, adapter: ResolvedAdapterSpec, rate: float
    ) -> None:
        base = write_tiny_llama(tmp_path / "base", hidden_size=64)
        evaluation = PREFERRED.model_copy(update={"metrics": ["Loss", "PreferenceAccuracy", "RewardMargin"]})
        config = prepare_job(
            bucket,
            secret.parent,
            ROWS,
            method="reward",
            method_settings=MethodSpec(reward=RewardMethod(center_coefficient=0.01)),
            adapter=adapter,
            settings=settings(rate, steps=60),
            evaluation=evaluation,
            base=base,
        )
        trained = train_here(config, secret.parent, tmp_path / "work")
        assert trained.gate_passed, trained.evaluation
        assert trained.evaluation is not None
        assert trained.evaluation.tuned["Loss"] < math.log(2) / 2, "without a preference it is ln 2"
        model, tokenizer = loaded(config, secret, tmp_path, base)
        assert_same(scores(model, tokenizer, ROWS["test"], config, secret), published(config, secret).tuned)
        assert model.config.id2label == {0: "reward"}

    @pytest.mark.parametrize(
        ("special", "own", "expected"),
        [
            pytest.param(["<end>", "<pad>"], "<pad>", "<pad>", id="its own"),
            pytest.param(["<end>", "<|padding|>"], None, "<|padding|>", id="one that stands for nothing"),
            pytest.param(["<end>", "<|reserved_0|>"], "<end>", "<|reserved_0|>", id="not its own that ends texts"),
            pytest.param(["<end>"], None, "\u00ff", id="a byte that no text has"),
        ],
    )
    def test_an_answer_that_has_ended_scores_otherwise_than_one_that_goes_on(
        self, special: list[str], own: str | None, expected: str
    ) -> None:
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

        from finetune_trainer.head import fit_padding, text_scores

        bytewise = Tokenizer(models.BPE())
        bytewise.pre_tokenizer, bytewise.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
        bytewise.train_from_iterator(["yes"], trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<end>", pad_token=own)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(tokenizer), num_labels=1, **sizes)).eval()
        fit_padding(model, tokenizer)
        assert tokenizer.pad_token == expected
        assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
        answer = tokenizer("yes")["input_ids"]
        with torch.no_grad():
            goes_on, ended, alone = text_scores(model, [answer, [*answer, tokenizer.eos_token_id], answer])
        assert goes_on == alone
        assert (ended - goes_on).abs() > 1e-4


class TestOrpoAndKto:
    @pytest.mark.parametrize("method", ["orpo", "kto"])
    @pytest.mark.parametrize(("adapter", "rate"), LEARNERS)
    def test_good_answers_are_preferred_and_the_files_alone_do_so_too(
        self, bucket: str, secret: Path, tmp_path: Path, method: str, adapter: ResolvedAdapterSpec, rate: float
    ) -> None:
        base = write_tiny_llama(tmp_path / "base", hidden_size=64)
        rows = ROWS if method == "orpo" else {"train": verdicts(48), "test": verdicts(24, 200)}
        config = prepare_job(
            bucket,
            secret.parent,
            rows,
            method=method,
            adapter=adapter,
            settings=settings(rate, micro_batch_size=4),
            evaluation=PREFERRED,
            base=base,
        )
        trained = train_here(config, secret.parent, tmp_path / "work")
        assert trained.gate_passed, trained.evaluation
        model, tokenizer = loaded(config, secret, tmp_path, base)
        found, stored = scores(model, tokenizer, rows["test"], config, secret), published(config, secret).tuned
        assert [each.nll for each in found] == pytest.approx([each.nll for each in stored], abs=1e-3)
        assert [each.id for each in found if each.margin is not None] == [
            each.id for each in stored if each.margin is not None
        ]

    def test_kto_needs_more_than_one_row_at_a_time(self, bucket: str, secret: Path, tmp_path: Path) -> None:
        rows = {"train": verdicts(8)}
        config = prepare_job(bucket, secret.parent, rows, method="kto", settings=training(micro_batch_size=1))
        with pytest.raises(Failure, match="one row is none: set training") as caught:
            train_here(config, secret.parent, tmp_path / "work")
        assert caught.value.reason is Reason.CONFIG_INVALID

    def test_kto_keeps_two_rows_after_memory_ran_out(self, bucket: str, secret: Path, tmp_path: Path) -> None:
        courses = []
        for divisor in (1, 8):
            rows, options = {"train": verdicts(8)}, training(steps=2, batch_size=4, micro_batch_size=2)
            config = prepare_job(bucket, secret.parent, rows, name=f"by-{divisor}", method="kto", settings=options)
            courses.append(train_here(config, secret.parent, tmp_path / str(divisor), divisor).loss)
        assert courses[0] == courses[1]

    def test_the_odds_ratio_of_equal_answers_is_even(self) -> None:
        import torch

        from finetune_trainer.methods.orpo import odds_ratio_loss

        likely, unlikely = torch.tensor([-0.1]), torch.tensor([-2.0])
        assert odds_ratio_loss(likely, likely).item() == pytest.approx(math.log(2))
        odds = (math.exp(-0.1) / (1 - math.exp(-0.1))) / (math.exp(-2) / (1 - math.exp(-2)))
        assert odds_ratio_loss(likely, unlikely).item() == pytest.approx(-math.log(odds / (1 + odds)), rel=1e-4)

    def test_a_mixture_keeps_its_experts_busy(self, tmp_path: Path) -> None:
        import torch
        from datasets import Dataset
        from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

        from finetune_trainer.methods import orpo
        from finetune_trainer.methods.lesson import Lesson
        from tiny_models import tiny_tokenizer

        sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        batch = {
            "input_ids": torch.arange(40).view(4, 10),
            "attention_mask": torch.ones(4, 10, dtype=torch.long),
            "completion_mask": torch.tensor([[0] * 5 + [1] * 5] * 4),
        }
        found = []
        for coefficient in (0.0, 0.5):
            torch.manual_seed(0)
            model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **experts, router_aux_loss_coef=coefficient))
            rows = Dataset.from_list([{"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7]}])
            options = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": [], "gradient_checkpointing": False}
            resolved: Any = SimpleNamespace(method_settings=MethodSpec())
            trainer = orpo.trainer(Lesson(model, tiny_tokenizer(), rows, options, resolved, [], None))
            found.append(trainer.compute_loss(model, dict(batch)))
        tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}
        busy = model(**tokens, output_router_logits=True).aux_loss
        assert (found[1] - found[0]).item() == pytest.approx(0.5 * busy.item(), rel=1e-4)
