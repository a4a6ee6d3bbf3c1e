"""Values left out are decided by rule, stated ones stay, and steps are those the train stage takes."""

from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.evaluation import GenerationSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_trainer.base_model import BaseFacts, stateful_layers
from finetune_trainer.data.packing import sequence_count
from finetune_trainer.plan import Choices, decide
from finetune_trainer.sizing import Situation
from plan_builders import a_spec, lengths, plan

CPT = {"method": {"cpt": {}}}


def test_every_process_takes_the_same_share_of_the_batch() -> None:
    backend = {"kubernetes": {"gpus": 3, "nodes": 2}}
    training = plan(a_spec(backend=backend, training={"maxLength": 2048}))[0].training
    assert (training.batch_size, training.micro_batch_size) == (12, 2)
    with pytest.raises(Failure, match="6 processes, which take equal shares; state a multiple of 6"):
        plan(a_spec(backend=backend, training={"batchSize": 16}))
    with pytest.raises(Failure, match="are 6 processes, and there are only 5 training sequences"):
        plan(a_spec(backend=backend), train=lengths(*[30] * 5))


class TestDefaults:
    def test_a_first_job(self) -> None:
        found, choices = plan(a_spec())
        training = found.training
        assert (found.adapter.type, found.adapter.rank, found.adapter.alpha) == ("LoRA", 16, 32)
        assert (training.learning_rate, training.epochs, training.batch_size) == (2e-4, 3, 16)
        assert training.max_length == 64
        assert training.steps == 21  # 3 epochs of ceil(100 / 16)
        assert training.checkpoint_every_steps == 3
        assert (training.packing, training.assistant_only_loss) == (False, True)
        assert choices["training.learningRate"] == "0.0002"
        assert choices["adapter.targetModules"] == "[all-linear]"

    def test_what_is_stated_is_no_choice(self) -> None:
        stated = {
            "method": {"sft": {"packing": False, "assistantOnlyLoss": False}},
            "adapter": {"type": "LoRA", "rank": 4, "alpha": 4, "dropout": 0, "targetModules": ["q_proj"]},
            "training": {
                "maxSteps": 7,
                "learningRate": 0.5,
                "batchSize": 4,
                "microBatchSize": 2,
                "maxLength": 32,
                "optimizer": "Adafactor",
                "scheduler": "Linear",
                "warmupRatio": 0,
                "weightDecay": 0,
                "maxGradNorm": 5,
                "gradientCheckpointing": False,
                "fusedKernels": False,
                "precision": "Float32",
                "seed": 0,
                "checkpointEverySteps": 2,
                "keepCheckpoints": 2,
            },
        }
        found, choices = plan(a_spec(**stated), train=lengths(*[30] * 100))
        assert choices == {}
        assert found.training.steps == 7
        assert found.training.epochs is None
        assert found.training.seed == 0
        assert found.adapter.dropout == 0
        assert not found.training.assistant_only_loss

    @pytest.mark.parametrize(
        ("members", "random", "rate"),
        [
            pytest.param({}, False, 2e-4, id="an adapter"),
            pytest.param({"adapter": {"type": "Full"}}, False, 2e-5, id="all weights"),
            pytest.param(CPT, False, 2e-5, id="cpt is Full"),
            pytest.param(CPT, True, 1e-3, id="random weights"),
            pytest.param({"method": {"dpo": {}}}, False, 1e-5, id="dpo with an adapter"),
            pytest.param({"method": {"dpo": {}}, "adapter": {"type": "Full"}}, False, 1e-6, id="dpo with all weights"),
            pytest.param({"method": {"reward": {}}}, False, 1e-4, id="reward"),
            pytest.param({"method": {"orpo": {}}}, False, 8e-5, id="orpo"),
            pytest.param({"method": {"kto": {}}}, False, 1e-5, id="kto"),
        ],
    )
    def test_learning_rates(self, members: dict[str, Any], random: bool, rate: float) -> None:
        assert plan(a_spec(**members), random=random)[0].training.learning_rate == rate

    def test_cpt_packs_full_sequences_once(self) -> None:
        found, _ = plan(a_spec(**CPT), positions=128)
        assert found.adapter.type == "Full"
        assert (found.training.max_length, found.training.packing) == (128, True)
        assert found.training.steps == 3  # 100 texts of 50 tokens: 40 sequences of 128, in batches of 16
        assert not found.training.assistant_only_loss

    def test_dpo(self) -> None:
        found, choices = plan(a_spec(method={"dpo": {}}), train=lengths(*[1000] * 100))
        assert found.method.dpo is not None
        assert (found.method.dpo.beta, found.method.dpo.loss_types, found.method.dpo.label_smoothing) == (
            0.1,
            ["Sigmoid"],
            None,
        )
        assert (found.training.epochs, found.training.packing, found.training.assistant_only_loss) == (1, False, False)
        assert found.training.micro_batch_size == 4, "a row is two sequences of 1024 tokens"
        assert choices["method.dpo.beta"] == "0.1"
        assert "method.sft.packing" not in choices

    @pytest.mark.parametrize(("loss", "smoothing"), [("Robust", 0.1), ("ExoPair", 1e-3), ("Hinge", None)])
    def test_dpo_smooths_where_the_loss_needs_it(self, loss: str, smoothing: float | None) -> None:
        found, _ = plan(a_spec(method={"dpo": {"lossTypes": [loss]}}))
        assert found.method.dpo is not None
        assert found.method.dpo.label_smoothing == smoothing

    def test_metrics_are_the_methods(self) -> None:
        spec = a_spec(method={"dpo": {}}, evaluation={})
        assert plan(spec, test=lengths(50))[0].evaluation.metrics == [
            "Loss",
            "Perplexity",
            "PreferenceAccuracy",
            "RewardMargin",
        ]
        with pytest.raises(Failure, match="method dpo cannot be measured by ExactMatch; its metrics are Loss"):
            plan(a_spec(method={"dpo": {}}, evaluation={"metrics": ["ExactMatch"]}), test=lengths(50))

    def test_the_longest_hundredth_is_cut(self) -> None:
        found, _ = plan(a_spec(), train=lengths(*[100] * 99, 2000))
        assert found.training.max_length == 128
        assert plan(a_spec(), train=lengths(*[100] * 98, 2000, 2000))[0].training.max_length == 2048

    def test_the_base_bounds_the_length(self) -> None:
        assert plan(a_spec(), positions=48, train=lengths(40, 50))[0].training.max_length == 48
        with pytest.raises(Failure, match="maxLength is 64, but the base model has 48 positions") as end:
            plan(a_spec(training={"maxLength": 64}), positions=48)
        assert end.value.reason is Reason.CONFIG_INVALID

    def test_a_micro_batch_divides_the_batch(self) -> None:
        long = plan(a_spec(training={"batchSize": 12}), train=lengths(*[1600] * 20))[0].training
        assert (long.max_length, long.micro_batch_size) == (1600, 4)

    def test_rows_are_not_packed_where_a_state_would_run_on_into_the_next(self) -> None:
        base = BaseFacts(ResolvedBaseModel(), 2048, is_large=False, random=False, stateful="linear_attention")
        seen = Situation(a_spec(method={"sft": {"packing": True}}), base, {"train": lengths(20, 20)})
        with pytest.raises(Failure, match=r"\(linear_attention\) carry a state along a sequence") as end:
            decide(seen, Choices())
        assert end.value.reason is Reason.CONFIG_INVALID
        assert not decide(seen._replace(spec=a_spec()), Choices()).training.packing

    @pytest.mark.parametrize(
        ("architecture", "kind"),
        [("llama", ""), ("qwen3", ""), ("gpt_oss", ""), ("qwen3_next", "linear_attention"), ("mamba2", "linear_attention"),
         ("rwkv", "rwkv"), ("falcon_h1", "hybrid")],
    )  # fmt: skip
    def test_layers_with_a_state_are_read_from_configurations(self, architecture: str, kind: str) -> None:
        from transformers import AutoConfig

        assert stateful_layers(AutoConfig.for_model(architecture)) == kind

    def test_a_prefix_is_never_recomputed(self) -> None:
        """It lives in the cache that recomputation drops."""
        base = BaseFacts(ResolvedBaseModel(), 2048, is_large=True, random=False)
        for adapter, recompute in (("Prefix", False), ("LoRA", True)):
            seen = Situation(a_spec(adapter={"type": adapter}), base, {"train": lengths(20, 20)})
            assert decide(seen, Choices()).training.gradient_checkpointing is recompute

    def test_few_rows_are_one_batch(self) -> None:
        training = plan(a_spec(), train=lengths(20, 20, 20))[0].training
        assert (training.batch_size, training.steps) == (3, 3)

    def test_a_batch_that_the_rows_cannot_fill_is_refused(self) -> None:
        assert plan(a_spec(training={"batchSize": 3}), train=lengths(20, 20, 20))[0].training.batch_size == 3
        with pytest.raises(Failure, match="batchSize is 4, but there are only 3 training sequences") as end:
            plan(a_spec(training={"batchSize": 4}), train=lengths(20, 20, 20))
        assert end.value.reason is Reason.CONFIG_INVALID

    def test_rows_whose_answer_is_cut_off_take_no_steps(self) -> None:
        spec = a_spec(training={"maxLength": 32, "batchSize": 1, "epochs": 1})
        assert plan(spec, train=lengths(20, 20, 100))[0].training.steps == 2
        with pytest.raises(
            Failure, match=r"no training row has an answer within training\.maxLength \(32 tokens\)"
        ) as end:
            plan(spec, train=lengths(100))
        assert end.value.reason is Reason.DATA_INVALID

    def test_a_length_below_the_shortest_answer_is_refused(self) -> None:
        spec = a_spec(training={"maxLength": 32})
        with pytest.raises(
            Failure, match=r"all 2 training rows are longer .* the shortest row has 40: set maxLength"
        ) as end:
            plan(spec, train=lengths(40, 60, answer=35))
        assert end.value.reason is Reason.DATA_INVALID
        plan(a_spec(training={"maxLength": 32}, **CPT), train=lengths(40, 60, answer=40))


class TestEvaluation:
    def test_metrics_fit_method_and_labels(self) -> None:
        assert plan(a_spec(), test=lengths(9))[0].evaluation.metrics == ["Loss", "Perplexity", "ExactMatch"]
        labels = {"evaluation": {"labels": ["a", "b"]}}
        assert "Accuracy" in (plan(a_spec(**labels), test=lengths(9))[0].evaluation.metrics or [])
        assert plan(a_spec(**CPT), test=lengths(9))[0].evaluation.metrics == ["Loss", "Perplexity"]

    def test_answers_may_be_as_long_as_the_longest(self) -> None:
        assert plan(a_spec(), test=lengths(9, answer=5))[0].evaluation.max_new_tokens == 5
        assert plan(a_spec(), validation=lengths(9, answer=4))[0].evaluation.max_new_tokens == 4

    def test_answers_are_greedy_to_every_row_unless_stated(self) -> None:
        found, shown = plan(a_spec(), test=lengths(9, 9, answer=5))
        assert found.evaluation.generation == GenerationSpec(max_new_tokens=5, temperature=0.0, max_rows=2)
        assert shown["evaluation.generation.temperature"] == "0"
        stated = {"maxNewTokens": 7, "temperature": 0.7, "stopStrings": ["#"], "maxRows": 1}
        found, shown = plan(a_spec(evaluation={"generation": stated}), test=lengths(9, 9))
        assert found.evaluation.max_new_tokens == 7
        assert found.evaluation.generation == GenerationSpec.model_validate(stated | {"topP": 1.0})
        assert shown["evaluation.generation.topP"] == "1"
        assert plan(a_spec(**CPT), test=lengths(9))[0].evaluation.generation is None

    def test_text_has_no_answers(self) -> None:
        gate = {"gate": [{"metric": "ExactMatch", "min": 0.5}]}
        with pytest.raises(Failure, match="method cpt cannot be measured by ExactMatch"):
            plan(a_spec(**CPT, evaluation=gate), test=lengths(9))

    def test_a_gate_needs_held_out_rows(self) -> None:
        with pytest.raises(Failure, match="held-out rows"):
            plan(a_spec(evaluation={"gate": [{"metric": "Loss", "max": 1}]}))


class TestSequences:
    def test_rows_are_sequences_unless_packed(self) -> None:
        assert sequence_count([1, 2, 300], 10, packing=False, whole_text=False) == 3

    def test_joined_text_is_cut_anew(self) -> None:
        assert sequence_count([6, 6, 6], 10, packing=True, whole_text=True) == 2

    def test_rows_fill_sequences_longest_first(self) -> None:
        assert sequence_count([6, 4, 5, 5, 300, 0], 10, packing=True, whole_text=False) == 3
        assert sequence_count([6, 6, 3, 3, 1, 1], 10, packing=True, whole_text=False) == 2
        assert sequence_count([6, 3, 3], 10, packing=True, whole_text=False) == 2

    def test_a_thousand_rows_at_a_time(self) -> None:
        assert sequence_count([1] * 2001, 1000, packing=True, whole_text=True) == 3


class TestValidationLoss:
    """When it is measured, and what follows from it."""

    def test_is_not_measured_unless_asked_for(self) -> None:
        found, chosen = plan(a_spec(), validation=lengths(50))
        assert found.training.evaluate_every_steps == 0
        assert "training.evaluateEverySteps" not in chosen

    def test_early_stopping_measures_with_every_checkpoint_and_publishes_the_best(self) -> None:
        stated = {"maxSteps": 50, "earlyStopping": {"patience": 2}}
        found, chosen = plan(a_spec(training=stated), validation=lengths(50))
        training = found.training
        assert (training.evaluate_every_steps, training.publish_best, training.patience) == (5, True, 2)
        assert chosen["training.evaluateEverySteps"] == "5"
        assert chosen["training.earlyStopping.minDelta"] == "0"

    def test_without_rows_it_is_refused(self) -> None:
        with pytest.raises(Failure, match=r"training\.publishBest needs validation rows, and there are none"):
            plan(a_spec(training={"publishBest": True}))

    def test_kto_compares_two_rows(self) -> None:
        def planned(loss: str) -> Any:
            return plan(
                a_spec(method={"kto": {"lossType": loss}}, training={"publishBest": True}), validation=lengths(50)
            )

        assert planned("ApoZeroUnpaired")[0].training.publish_best
        with pytest.raises(Failure, match="compares the answers of the validation rows, and one is none"):
            planned("Kto")
