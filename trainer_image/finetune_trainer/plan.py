"""Decide every value the spec leaves out, each with its reason. Pure; called by :mod:`finetune_trainer.prepare`.

    method               sft
    adapter              LoRA; cpt: Full; its settings and the learning rate: :mod:`finetune_trainer.plan_adapter`
    epochs               by method: :mod:`finetune_trainer.usual`
    learningRate         by method; random weights: 1e-3; :mod:`finetune_trainer.plan_search` where one is searched for
    batchSize            16, or all sequences where there are fewer
    maxLength            99 % of the training rows fit, rounded up to 64; cpt: 2048; never more than the base's positions
    microBatchSize       the largest divisor of the batch with at most 8192 tokens in a forward pass that fits the stated GPU
    gradientCheckpointing  only where the stated GPU needs it; without one, from a billion parameters on
    fusedKernels         on a GPU, for the architectures they were measured on
    scheduler            Cosine with 3 % warm-up; weight decay 0.01 for Full, else none; AdamW's usual beta2; gradients cut at 1
    packing              cpt: yes; sft: no
    checkpoints          ten in a run, two kept
    evaluateEverySteps   :mod:`finetune_trainer.plan_course`
    evaluation           :mod:`finetune_trainer.plan_evaluation`

Methods that sample answers: :mod:`finetune_trainer.sampling`.

Batches count sequences; the steps are those the train stage takes (:mod:`finetune_trainer.data.packing`).
"""

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple, TypeVar

from finetune_api.artifacts import ResolvedAdapterSpec, ResolvedTraining
from finetune_api.matrix import SAMPLING_METHODS, refusal
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.adapter import AdapterSpec
from finetune_api.v1alpha1.dataset import Split
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.training import MethodSpec, TrainingSpec
from finetune_trainer import sampling
from finetune_trainer.choices import Choices as Choices
from finetune_trainer.data.measuring import Lengths
from finetune_trainer.plan_adapter import DROPOUT, check_deploy, learning_rate, resolved_adapter
from finetune_trainer.plan_course import course
from finetune_trainer.plan_evaluation import resolved_evaluation
from finetune_trainer.plan_search import resolved_search
from finetune_trainer.sizing import Extent, Forecast, Situation, kernels, method_of, size
from finetune_trainer.usual import USUAL, settings

T = TypeVar("T")

DEFAULT_SEED = 42
LONGEST_TEXT = 2048
SHARE_THAT_FITS = 0.99
CHECKPOINTS = 10
LEARN_TO_STOP = ("sft", "dpo", "orpo", "kto")
"""Methods whose rows end with an answer that the model learns to write, and to end."""


class Plan(NamedTuple):
    """Nothing left out."""

    adapter: ResolvedAdapterSpec
    training: ResolvedTraining
    evaluation: EvaluationSpec
    method: MethodSpec
    """Its settings: the member of the method, filled in."""
    forecast: Forecast


def answers_only(spec: FineTuneJobSpec) -> bool:
    """Whether training learns from answers only; needed before the rows can be measured."""
    sft = spec.method.sft if spec.method else None
    return method_of(spec) == "sft" and (sft is None or sft.assistant_only_loss is not False)


def split_seed(spec: FineTuneJobSpec) -> int:
    """Seed of the cut into splits; needed before the rows can be measured."""
    split, training = spec.dataset.split or Split(), spec.training or TrainingSpec()
    if split.seed is not None:
        return split.seed
    return DEFAULT_SEED if training.seed is None else training.seed


def decide(seen: Situation, choices: Choices) -> Plan:
    """Every value, as stated or as chosen. Raises Failure where stated values do not fit data or base."""
    if seen.spec.method is None:
        choices.take("method", None, "sft", "the usual way to learn from answers")
    seen = seen._replace(spec=sampling.filled_in(seen.spec, seen.base.positions, choices))
    adapter = _adapter(seen, choices)
    if sentence := refusal(seen.method, adapter.type):  # the operator refuses it before; an image may be older
        raise Failure(Reason.CONFIG_INVALID, sentence)
    seen = seen._replace(base=seen.base.with_room_for(adapter.virtual_tokens))
    evaluation = resolved_evaluation(seen, choices)
    method = settings(seen.method, seen.spec.method or MethodSpec(), choices, seen.classes)
    training, forecast = _training(seen, adapter, choices)
    return Plan(adapter, training, evaluation, method, forecast)


def _adapter(seen: Situation, choices: Choices) -> ResolvedAdapterSpec:
    stated = seen.spec.adapter
    if stated is None:
        is_text = seen.method == "cpt"
        reason = (
            "raw text changes the whole model" if is_text else "a small adapter learns nearly as well as all weights"
        )
        choices.take("adapter.type", None, "Full" if is_text else "LoRA", reason)
        stated = AdapterSpec(type="Full" if is_text else "LoRA")
    usual = sampling.NO_DROPOUT if seen.method in SAMPLING_METHODS else DROPOUT
    adapter = resolved_adapter(stated, choices, usual, seen.inherited, seen.base.linear)
    if seen.spec.deploy is not None:
        check_deploy(seen.method, adapter)
    return adapter


def _extent(seen: Situation, choices: Choices) -> Extent:
    stated = seen.spec.training or TrainingSpec()
    is_text = seen.method == "cpt"
    packing = _packing(seen, choices)
    max_length = _max_length(seen, stated, choices)
    sequences = seen.lengths["train"].sequences(
        max_length, packing=packing, whole_text=is_text, whole_answers=seen.method == "reward"
    )
    if sequences == 0:
        raise Failure(
            Reason.DATA_INVALID,
            f"no training row has an answer within training.maxLength ({max_length} tokens); raise it",
        )
    if seen.method in LEARN_TO_STOP:
        _check_ends(max_length, seen.lengths["train"])
    sampled = sampling.sampling_of(seen.spec)
    if sampled is not None:
        sampling.check_room(max_length, sampled)
        usual, why = sampling.usual_batch(sequences, sampled), f"answers to {min(sampled.prompts, sequences)} prompts"
    else:
        _check_batch(stated.batch_size, sequences)
        usual, why = min(16, sequences), f"of {sequences} training sequences"
    batch = choices.take("training.batchSize", stated.batch_size, _shared(usual, seen.processes), why)
    _check_shares(batch, sequences, seen.processes)
    per_epoch = sampling.steps_per_epoch(sequences, batch, sampled) if sampled else ceil(sequences / batch)
    if stated.max_steps is not None:
        return Extent(packing, max_length, batch, None, stated.max_steps, sequences)
    epochs = choices.take("training.epochs", stated.epochs, USUAL[seen.method].epochs, f"usual for {seen.method}")
    steps = max(1, ceil(epochs * per_epoch))
    return Extent(packing, max_length, batch, epochs, steps, sequences)


def _check_ends(max_length: int, lengths: Lengths) -> None:
    """A model that never sees the end of an answer never ends one."""
    shortest = min(lengths.tokens)
    if shortest > max_length:
        raise Failure(
            Reason.DATA_INVALID,
            f"all {len(lengths.tokens)} training rows are longer than training.maxLength ({max_length} tokens), so that no answer "
            f"would be learned to its end; the shortest row has {shortest}: set maxLength to at least that, as far as the base "
            "model has positions, or shorten the rows",
        )


def _check_batch(stated: int | None, sequences: int) -> None:
    if stated is not None and stated > sequences:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"training.batchSize is {stated}, but there are only {sequences} training sequences to fill it; "
            f"state at most {sequences}, leave it out, or add rows",
        )


def _shared(usual: int, processes: int) -> int:
    """The batch nearest below that all processes can share; one row each at least."""
    return processes * max(1, usual // processes)


def _check_shares(batch: int, sequences: int, processes: int) -> None:
    if processes > sequences:
        raise Failure(
            Reason.DATA_INVALID,
            f"backend.kubernetes gpus x nodes are {processes} processes, and there are only {sequences} training sequences: "
            "take fewer, or add rows",
        )
    if batch % processes:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"training.batchSize is {batch}, but backend.kubernetes gpus x nodes are {processes} processes, which take equal shares; "
            f"state a multiple of {processes}",
        )


def _training(seen: Situation, adapter: ResolvedAdapterSpec, choices: Choices) -> tuple[ResolvedTraining, Forecast]:
    stated = seen.spec.training or TrainingSpec()
    extent = _extent(seen, choices)
    rate, why = learning_rate(USUAL[seen.method], adapter.type, random=seen.base.random)
    search = resolved_search(stated.learning_rate_search, rate, choices)
    chosen, forecast = size(seen, adapter, extent)
    tenth = ceil(extent.steps / CHECKPOINTS)

    def take(name: str, value: T | None, chosen: T, reason: str) -> T:
        return choices.take(f"training.{name}", value, chosen, reason)

    training = ResolvedTraining(
        packing=extent.packing,
        max_length=extent.max_length,
        batch_size=extent.batch_size,
        epochs=extent.epochs,
        steps=extent.steps,
        max_steps=stated.max_steps,
        learning_rate=take(
            "learningRate", stated.learning_rate, rate, f"{why}; the search replaces it" if search else why
        ),
        learning_rate_search=search,
        micro_batch_size=take("microBatchSize", stated.micro_batch_size, chosen.micro_batch, chosen.why_rows),
        **_optimisation(stated, take, full=adapter.type == "Full"),
        gradient_checkpointing=take(
            "gradientCheckpointing", stated.gradient_checkpointing, chosen.recompute, chosen.why_recompute
        ),
        fused_kernels=take("fusedKernels", stated.fused_kernels, *kernels(seen, adapter)),
        precision=take("precision", stated.precision, "Auto", "BFloat16 where the device has it"),
        seed=take("seed", stated.seed, DEFAULT_SEED, "the same run every time"),
        checkpoint_every_steps=take("checkpointEverySteps", stated.checkpoint_every_steps, tenth, "a tenth of the run"),
        keep_checkpoints=take(
            "keepCheckpoints", stated.keep_checkpoints, 2, "should the newest be damaged, the one before it"
        ),
        assistant_only_loss=_answers_only(seen, choices),
    )
    later = course(seen, training.steps, training.checkpoint_every_steps, choices)
    return training.model_copy(update=later), forecast


def _optimisation(stated: TrainingSpec, take: Callable[..., Any], *, full: bool) -> dict[str, Any]:
    """How gradients become steps, and what is done to them and to the targets."""
    optimizer = take("optimizer", stated.optimizer, "AdamW", "usual")
    scheduler = take("scheduler", stated.scheduler, "Cosine", "usual")
    warmup = take("warmupRatio", stated.warmup_ratio, 0.03, "usual")
    decay = round(min(0.1, 1 - warmup), 6)
    return {
        "optimizer": optimizer,
        "scheduler": scheduler,
        "decay_ratio": take("decayRatio", stated.decay_ratio, decay, "a tenth is enough")
        if scheduler == "WSD"
        else 0.0,
        "warmup_ratio": warmup,
        "weight_decay": take(
            "weightDecay", stated.weight_decay, 0.01 if full else 0.0, "Full only: an adapter is small"
        ),
        "adam_beta2": 0.999 if optimizer == "Adafactor" else take("adamBeta2", stated.adam_beta2, 0.999, "usual"),
        "max_grad_norm": take("maxGradNorm", stated.max_grad_norm, 1.0, "usual"),
        "on_non_finite_loss": stated.on_non_finite_loss or "Fail",
        "neftune_alpha": stated.neftune_alpha or 0.0,
        "label_smoothing": stated.label_smoothing or 0.0,
    }


def _packing(seen: Situation, choices: Choices) -> bool:
    method = seen.spec.method
    if seen.method == "cpt":
        stated = method.cpt.packing if method and method.cpt else None
        return choices.take("method.cpt.packing", stated, True, "full sequences, no padding")
    if seen.method != "sft":
        return False
    stated = method.sft.packing if method and method.sft else None
    if stated and seen.base.stateful:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"method.sft.packing: layers of the base model ({seen.base.stateful}) carry a state along a sequence, and would carry it "
            "from a row into the one packed behind it; leave packing out",
        )
    return choices.take("method.sft.packing", stated, False, "pays only with a flash-attention kernel")


def _answers_only(seen: Situation, choices: Choices) -> bool:
    if seen.method != "sft":
        return False
    method = seen.spec.method
    stated = method.sft.assistant_only_loss if method and method.sft else None
    return choices.take("method.sft.assistantOnlyLoss", stated, answers_only(seen.spec), "learn answers, not questions")


def _max_length(seen: Situation, stated: TrainingSpec, choices: Choices) -> int:
    positions = seen.base.positions
    if stated.max_length is not None:
        if positions is not None and stated.max_length > positions:
            raise Failure(
                Reason.CONFIG_INVALID,
                f"training.maxLength is {stated.max_length}, but the base model has {positions} positions; state at most that",
            )
        return stated.max_length
    if seen.method == "cpt":
        wanted, why = LONGEST_TEXT, f"at most {LONGEST_TEXT}"
    else:
        fitting = seen.lengths["train"].percentile(SHARE_THAT_FITS)
        sampled = sampling.sampling_of(seen.spec)
        answer = sampled.max_new_tokens if sampled else 0
        wanted, why = 64 * ceil((fitting + answer) / 64), f"99 % of the rows have at most {fitting} tokens"
        why += f", and answers up to {answer}" if sampled else ""
    limited = wanted if positions is None else min(wanted, positions)
    return choices.take(
        "training.maxLength", None, limited, why if limited == wanted else f"positions of the base; {why}"
    )
