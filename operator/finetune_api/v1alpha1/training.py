"""How it is learned: method and hyperparameters."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, at_most_one, cel, exactly_one
from finetune_api.v1alpha1.methods import ClassificationMethod, DpoMethod, KtoMethod, OrpoMethod, RewardMethod
from finetune_api.v1alpha1.reinforcement import GrpoMethod, PpoMethod

Optimizer = Literal["AdamW", "AdamW8bit", "PagedAdamW8bit", "Adafactor"]
Scheduler = Literal["Cosine", "Linear", "Constant", "WSD"]
NonFinitePolicy = Literal["Fail", "SkipBatch"]
Size = Annotated[int, Field(ge=1, le=1_000_000)]


class SftMethod(ApiModel):
    """Supervised fine-tuning on answers."""

    packing: bool | None = None
    """Put several rows into one sequence without letting them see each other; left out, the plan decides."""
    assistant_only_loss: bool | None = None
    """Learn from assistant turns (or completions) only; left out, true."""


class CptMethod(ApiModel):
    """Continued pretraining on raw text."""

    packing: bool | None = None
    """Cut the concatenated text into full sequences; left out, true."""


class MethodSpec(ApiModel):
    """What is learned; exactly one member."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("sft", "cpt", "dpo", "kto", "orpo", "reward", "ppo", "grpo", "classification")
        )
    )

    sft: SftMethod | None = None
    """Supervised fine-tuning."""
    cpt: CptMethod | None = None
    """Continued pretraining on raw text."""
    dpo: DpoMethod | None = None
    """Direct preference optimisation."""
    kto: KtoMethod | None = None
    """Kahneman-Tversky optimisation."""
    orpo: OrpoMethod | None = None
    """Odds-ratio preference optimisation."""
    reward: RewardMethod | None = None
    """Reward model."""
    ppo: PpoMethod | None = None
    """RLHF with proximal policy optimisation: reinforcement learning on sampled answers, with a value head."""
    grpo: GrpoMethod | None = None
    """Group-relative policy optimisation: reinforcement learning on sampled answers."""
    classification: ClassificationMethod | None = None
    """Sequence classification."""

    def rewarded(self) -> GrpoMethod | PpoMethod | None:
        """The member that samples answers and rewards them; None for the other methods."""
        return self.grpo or self.ppo


class EarlyStopping(ApiModel):
    """An end before the last step, when the validation loss gets no lower; the step where it was lowest is published."""

    patience: Annotated[int, Field(ge=1, le=1000)]
    """Evaluations in a row without a lower validation loss after which training stops."""
    min_delta: Annotated[float, Field(ge=0, le=100)] | None = None
    """What the loss must fall by to count as lower; left out, 0."""


class LearningRateSearch(ApiModel):
    """A range test: the job's own training is begun with a learning rate that rises from step to step, a tenth of the rate at which its
    loss was lowest is taken, and what it learned is thrown away."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.lowest) || !has(self.highest) || self.lowest < self.highest",
                "the rate rises from lowest to highest: lowest must be below highest",
            )
        )
    )

    steps: Annotated[int, Field(ge=20, le=1000)] | None = None
    """Optimiser steps of the test; left out, 100."""
    lowest: Annotated[float, Field(gt=0, le=1)] | None = None
    """Rate of the first step; left out, a hundredth of the one that is usual."""
    highest: Annotated[float, Field(gt=0, le=1)] | None = None
    """Rate of the last step; left out, a thousand times the one that is usual, at most 1."""


class TrainingSpec(ApiModel):
    """Hyperparameters; one left out is decided in the prepare stage and shown with its reason in status.plan."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            at_most_one("epochs", "maxSteps"),
            at_most_one("learningRate", "learningRateSearch"),
            (
                "!has(self.microBatchSize) || (has(self.batchSize) && self.batchSize % self.microBatchSize == 0)",
                "batchSize must be set and be a multiple of microBatchSize",
            ),
            (
                "!has(self.decayRatio) || (has(self.scheduler) && self.scheduler == 'WSD')",
                "decayRatio belongs to scheduler WSD",
            ),
            (
                "!has(self.decayRatio) || !has(self.warmupRatio) || self.decayRatio + self.warmupRatio <= 1.0",
                "warmupRatio and decayRatio are shares of the same steps: together at most 1",
            ),
            (
                "!has(self.adamBeta2) || !has(self.optimizer) || self.optimizer != 'Adafactor'",
                "adamBeta2 belongs to the optimizers named Adam",
            ),
        )
    )

    epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Passes over the training rows."""
    max_steps: Size | None = None
    """Optimiser steps, instead of epochs."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate; a number, for example 2e-4 (kubectl reads it as one)."""
    learning_rate_search: LearningRateSearch | None = None
    """Look for the peak learning rate before training; it is shown in status.plan.choices. Left out, the usual one is taken."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Rows (packed: sequences) per optimiser step, over all devices."""
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Rows per forward pass; the rest of the batch is accumulated. For kto with loss Kto at least 2."""
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] | None = None
    """Tokens per sequence; longer rows are cut and counted."""
    optimizer: Optimizer | None = None
    """AdamW; AdamW8bit: moments in 8 bits (bitsandbytes); PagedAdamW8bit: which leave the GPU when it is full; Adafactor: second
    moments by rows and columns. Those in 8 bits need a GPU. Left out, AdamW."""
    scheduler: Scheduler | None = None
    """Course of the learning rate after the warm-up; WSD: stable, and a decay to 0 at the end. Left out, Cosine."""
    decay_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """WSD: share of the steps in which the learning rate falls (by 1 - sqrt); left out, 0.1."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    """Decoupled weight decay of AdamW."""
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of AdamW's second moment; left out, 0.999."""
    neftune_alpha: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Noise on the embeddings while training (NEFTune), 5 to 15; sft only. Left out, none."""
    label_smoothing: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of every target spread over the whole vocabulary; sft only. Left out, none."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Gradients are scaled down to this norm; left out, 1.0."""
    on_non_finite_loss: NonFinitePolicy | None = None
    """When loss or gradient of a batch is no number: Fail names its rows and ends the job; SkipBatch leaves the batch out, once, and says so
    in status.skippedBatch, and fails at the next one. Left out, Fail."""
    gradient_checkpointing: bool | None = None
    """Recompute activations instead of keeping them: less memory, more time."""
    fused_kernels: bool | None = None
    """Norms, rotary positions and the gate of the feed-forward layers by Liger's fused kernels: less time and memory. Left out, true on GPUs for
    the architectures Llama, Mistral, Qwen2 and Qwen3, else false."""
    precision: Literal["BFloat16", "Float32"] | None = None
    """Arithmetic of the forward pass; left out, BFloat16 where the device has it."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Seed of everything random; left out, 42."""
    checkpoint_every_steps: Size | None = None
    """Steps between checkpoints; left out, a tenth of the run."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=15)] | None = None
    """Newest checkpoints kept in the store, beside the best one; left out, 2: should the newest be damaged, the one before it serves."""
    evaluate_every_steps: Size | None = None
    """Steps between evaluations on the validation rows (dataset.validation or dataset.split.validation), whose loss is validationLoss in
    metrics.jsonl: the evaluation's Loss, for dpo, kto and orpo the loss they lower. Not for ppo and grpo. Left out, checkpointEverySteps
    where earlyStopping or publishBest is set, else none."""
    publish_best: bool | None = None
    """Publish the evaluated step with the lowest validation loss instead of the last (load_best_model_at_end of transformers);
    earlyStopping does so without it. Left out, false."""
    early_stopping: EarlyStopping | None = None
    """Stop when the validation loss gets no lower, and publish the step where it was lowest; left out, train to the last step."""

    def asks_validation_rows(self) -> list[str]:
        """Names of the stated members that need validation rows."""
        stated = self.wire()
        members = ("earlyStopping", "publishBest", "evaluateEverySteps")
        return [name for name in members if stated.get(name)]
