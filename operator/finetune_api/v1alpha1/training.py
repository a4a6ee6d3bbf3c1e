"""What is learned and how: base model, method, adapter, hyperparameters, evaluation and gate."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, Digest, NotYet, ShortText, Uri, at_most_one, cel, exactly_one
from finetune_api.v1alpha1.methods import DpoMethod, KtoMethod, OrpoMethod, RewardMethod
from finetune_api.v1alpha1.references import JobRef, SecretRef
from finetune_api.v1alpha1.reinforcement import GrpoMethod

Metric = Literal[
    "Loss", "Perplexity", "ExactMatch", "Accuracy", "MacroF1", "PreferenceAccuracy", "RewardMargin", "Reward"
]
Size = Annotated[int, Field(ge=1, le=1_000_000)]


class FromConfig(ApiModel):
    """Random weights of a stated Llama architecture; the tokenizer is trained on the dataset."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            ("self.hiddenSize % self.attentionHeads == 0", "hiddenSize must be a multiple of attentionHeads"),
            (
                "!has(self.keyValueHeads) || self.attentionHeads % self.keyValueHeads == 0",
                "attentionHeads must be a multiple of keyValueHeads",
            ),
        )
    )

    architecture: Literal["Llama"]
    """Model family."""
    vocabulary_size: Annotated[int, Field(ge=300, le=262_144)]
    """Entries of the byte-level BPE vocabulary."""
    hidden_size: Annotated[int, Field(ge=8, le=32_768)]
    """Width of the residual stream."""
    intermediate_size: Annotated[int, Field(ge=8, le=131_072)]
    """Width of the feed-forward layer."""
    layers: Annotated[int, Field(ge=1, le=256)]
    """Number of decoder layers."""
    attention_heads: Annotated[int, Field(ge=1, le=512)]
    """Query heads."""
    key_value_heads: Annotated[int, Field(ge=1, le=512)] | None = None
    """Key and value heads; left out, attentionHeads."""
    max_position_embeddings: Annotated[int, Field(ge=16, le=1_048_576)] | None = None
    """Longest sequence; left out, 2048."""
    tie_word_embeddings: bool = True
    """Whether the output layer shares the embedding."""
    initializer_range: Annotated[float, Field(gt=0, le=1)] | None = None
    """Standard deviation of the initial weights; left out, 0.02. Small models learn with more (0.06)."""


class BaseModelSpec(ApiModel):
    """The model to start from."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("uri", "jobRef", "fromConfig"),
            (
                "!has(self.uri) || self.uri.matches('^(hf|s3|vertex|openai)://.+')",
                "uri starts with hf:// (hf://owner/name) or s3:// (s3://bucket/folder); with backend vertex or openai it is "
                "vertex:// or openai:// and the provider's own name of the model",
            ),
            (
                "!has(self.revision) || (has(self.uri) && self.uri.startsWith('hf://'))",
                "revision belongs to an hf:// uri",
            ),
            ("!has(self.digest) || has(self.uri)", "digest belongs to a uri; a jobRef brings its own"),
            ("!has(self.secretRef) || !has(self.fromConfig)", "secretRef is for a uri or a jobRef"),
        )
    )

    uri: Uri | None = None
    """hf://owner/name, or s3://bucket/folder holding config.json, tokenizer and safetensors. With backend vertex or openai:
    vertex://gemini-…, vertex://projects/…/models/… (a tuned one to go on from), openai://gpt-…."""
    revision: ShortText | None = None
    """Branch, tag or commit of an hf:// model."""
    digest: Digest | None = None
    """Expected sha256 of the folder's manifest.json (s3:// artifacts of this operator); verified before training."""
    job_ref: JobRef | None = None
    """Start from the model another FineTuneJob produced; waits until it is Complete and its gate passed."""
    from_config: FromConfig | None = None
    """Start from random weights; only with method cpt and adapter Full."""
    secret_ref: SecretRef | None = None
    """Credentials to read it; with a jobRef left out, that job's output secret."""


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
    ppo: NotYet | None = None
    """RLHF with proximal policy optimisation; not supported yet."""
    grpo: GrpoMethod | None = None
    """Group-relative policy optimisation: reinforcement learning on sampled answers."""
    classification: NotYet | None = None
    """Sequence classification; not supported yet."""


class TrainingSpec(ApiModel):
    """Hyperparameters; one left out is decided in the prepare stage and shown with its reason in status.plan."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            at_most_one("epochs", "maxSteps"),
            (
                "!has(self.microBatchSize) || (has(self.batchSize) && self.batchSize % self.microBatchSize == 0)",
                "batchSize must be set and be a multiple of microBatchSize",
            ),
        )
    )

    epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Passes over the training rows."""
    max_steps: Size | None = None
    """Optimiser steps, instead of epochs."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate; a number, for example 2e-4 (kubectl reads it as one)."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Rows (packed: sequences) per optimiser step, over all devices."""
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Rows per forward pass; the rest of the batch is accumulated."""
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] | None = None
    """Tokens per sequence; longer rows are cut and counted."""
    scheduler: Literal["Cosine", "Linear", "Constant"] | None = None
    """Course of the learning rate after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    """Decoupled weight decay of AdamW."""
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of AdamW's second moment; left out, 0.999."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Gradients are scaled down to this norm; left out, 1.0."""
    gradient_checkpointing: bool | None = None
    """Recompute activations instead of keeping them: less memory, more time."""
    precision: Literal["BFloat16", "Float32"] | None = None
    """Arithmetic of the forward pass; left out, BFloat16 where the device has it."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Seed of everything random; left out, 42."""
    checkpoint_every_steps: Size | None = None
    """Steps between checkpoints; left out, a tenth of the run."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=15)] | None = None
    """Newest checkpoints kept in the store, beside the best one; left out, 2: should the newest be damaged, the one before it serves."""


Baseline = Literal["Base", "MajorityClass"]


class GateRule(ApiModel):
    """One thing the tuned model must reach on the test rows."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "[has(self.min), has(self.max), has(self.maxRatioToBase), has(self.minDeltaVersusBase), has(self.beats)].exists(x, x)",
                "say what the metric must reach: min, max, maxRatioToBase, minDeltaVersusBase or beats",
            ),
            (
                "!has(self.beats) || self.metric in ['ExactMatch', 'Accuracy', 'PreferenceAccuracy']",
                "beats is for ExactMatch, Accuracy and PreferenceAccuracy",
            ),
        )
    )

    metric: Metric
    """Metric it is about."""
    min: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Lowest accepted value."""
    max: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Highest accepted value."""
    max_ratio_to_base: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Highest accepted tuned / base."""
    min_delta_versus_base: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """The lower bound of the 95 % paired bootstrap interval of the improvement on the base must be at least this. Of Loss and
    Perplexity the improvement is base - tuned, of every other metric tuned - base."""
    beats: Annotated[list[Baseline], Field(min_length=1, max_length=2)] | None = None
    """The lower bound of the 95 % paired bootstrap interval of (tuned - baseline) must be above zero."""


class EvaluationSpec(ApiModel):
    """How base and tuned model are compared on the held-out rows."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.metrics) || !self.metrics.exists(m, m in ['Accuracy', 'MacroF1']) || has(self.labels)",
                "metrics Accuracy and MacroF1 need labels: the list of allowed answers",
            ),
            (
                "!has(self.gate) || !self.gate.exists(g, g.metric in ['Accuracy', 'MacroF1']) || has(self.labels)",
                "a gate on Accuracy or MacroF1 needs labels: the list of allowed answers",
            ),
            (
                "self.compareWithBase || !has(self.gate) || !self.gate.exists(g, has(g.maxRatioToBase) || has(g.minDeltaVersusBase) || has(g.beats))",
                "a gate against the base needs compareWithBase: true",
            ),
        )
    )

    metrics: Annotated[list[Metric], Field(min_length=1, max_length=16)] | None = None
    """Metrics to compute; left out, Loss and Perplexity, for sft also ExactMatch, with labels also Accuracy and MacroF1. For
    preferences PreferenceAccuracy, the share of pairs whose chosen answer is the more probable one (reward: scores higher), and
    RewardMargin, by how much on average (in nats; reward: in the head's units, before training those of a random head). For grpo
    also ExactMatch and Reward."""
    labels: Annotated[list[ShortText], Field(min_length=2, max_length=256)] | None = None
    """The allowed answers; Accuracy is the share of rows whose most probable label is the right one,
    MacroF1 the mean of the labels' F1."""
    compare_with_base: bool = True
    """Evaluate the base on the same rows."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Longest generated answer for ExactMatch; left out, that of the longest reference answer."""
    gate: Annotated[list[GateRule], Field(min_length=1, max_length=16)] | None = None
    """All must hold, or the job ends as GateFailed: its artifact is kept and marked, and no deployment accepts it."""
