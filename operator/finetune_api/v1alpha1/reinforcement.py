"""Methods that learn from rewards on answers of their own: what is rewarded, and how answers are sampled."""

from typing import Annotated

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, Digest, Uri, cel, exactly_one
from finetune_api.v1alpha1.references import JobRef, SecretRef

Weight = Annotated[float, Field(ge=-100, le=100)]
Tokens = Annotated[int, Field(ge=1, le=65_536)]


class RegexReward(ApiModel):
    """1 where a pattern is found in the answer, else 0."""

    pattern: Annotated[str, Field(min_length=1, max_length=1024)]
    """Python regular expression, searched for anywhere; ^ and $ tie it to the ends."""


class ExactMatchReward(ApiModel):
    """1 where the answer is the row's reference answer, surrounding white space apart, else 0."""


class JsonSchemaReward(ApiModel):
    """1 where the answer is JSON that a schema accepts, else 0."""

    document: Annotated[str, Field(min_length=2, max_length=16_384)]
    """The schema (JSON Schema 2020-12), as JSON text; {} accepts any JSON."""


class LengthReward(ApiModel):
    """How well the answer's length in tokens, end token included, fits."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "has(self.targetTokens) != (has(self.minTokens) || has(self.maxTokens))",
                "set targetTokens, or minTokens, maxTokens or both",
            ),
            (
                "!has(self.minTokens) || !has(self.maxTokens) || self.minTokens <= self.maxTokens",
                "minTokens must not exceed maxTokens",
            ),
        )
    )

    target_tokens: Tokens | None = None
    """1 at this length, falling evenly to 0 at no tokens and at twice as many."""
    min_tokens: Tokens | None = None
    """0 below."""
    max_tokens: Tokens | None = None
    """0 above."""


class RewardSpec(ApiModel):
    """One thing an answer is rewarded for; exactly one of regex, exactMatch, jsonSchema, length."""

    model_config = ConfigDict(json_schema_extra=cel(exactly_one("regex", "exactMatch", "jsonSchema", "length")))

    regex: RegexReward | None = None
    """1 where a pattern is found in the answer."""
    exact_match: ExactMatchReward | None = None
    """1 where the answer is the row's reference answer."""
    json_schema: JsonSchemaReward | None = None
    """1 where the answer is JSON that a schema accepts."""
    length: LengthReward | None = None
    """Up to 1, by the answer's length."""
    weight: Weight | None = None
    """What it is multiplied by before all are added up; left out, 1."""


Rewards = Annotated[list[RewardSpec], Field(min_length=1, max_length=8)]
SOURCE = ("has(self.rewards) || has(self.rewardModel)", "set rewards, rewardModel, or both")


class RewardModel(ApiModel):
    """A model that scores answers: what a job of method reward published, whole or as an adapter, for the same tokenizer."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("uri", "jobRef"),
            (
                "!has(self.uri) || self.uri.matches('^s3://[^/]+/.+/(adapter|model)/?$')",
                "uri is s3://bucket/…/adapter or s3://bucket/…/model, as in status.artifact.uri of the reward job",
            ),
            ("!has(self.digest) || has(self.uri)", "digest belongs to a uri; a jobRef brings its own"),
        )
    )

    uri: Uri | None = None
    """status.artifact.uri of a reward job; the job's other files lie beside it."""
    digest: Digest | None = None
    """Expected sha256 of the folder's manifest.json; verified."""
    job_ref: JobRef | None = None
    """The reward job; waits until it is Complete and its gate passed."""
    secret_ref: SecretRef | None = None
    """Credentials to read it, and the base of an adapter where that is not this job's; with a jobRef left out, that job's output secret."""
    weight: Weight | None = None
    """What its score is multiplied by before it is added to the rewards; left out, 1."""


class PpoMethod(ApiModel):
    """Proximal policy optimisation (Schulman et al. 2017; Ouyang et al. 2022): one answer to each prompt, whose tokens are learned from
    by how much better they turned out than a value head expected. The head is thrown away after the training."""

    model_config = ConfigDict(json_schema_extra=cel(SOURCE))

    rewards: Rewards | None = None
    """What an answer is rewarded for; their weighted sum is the reward, earned at the answer's last token."""
    reward_model: RewardModel | None = None
    """A model that scores answers; its weighted score is added to the rewards."""
    max_new_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = None
    """Longest sampled answer; left out, 256, or half of the base's positions."""
    temperature: Annotated[float, Field(gt=0, le=10)] | None = None
    """Of the sampling; left out, 1."""
    kl_coefficient: Annotated[float, Field(ge=0, le=10)] | None = None
    """What every token pays for each nat it is more probable than before training; left out, 0, with a rewardModel 0.05."""
    clip_range: Annotated[float, Field(gt=0, le=1)] | None = None
    """How far a token's probability ratio and its value may move in a batch before they gain nothing more; left out, 0.2."""
    gamma: Annotated[float, Field(ge=0, le=1)] | None = None
    """Discount of what is earned a token later; left out, 1."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] | None = None
    """Lambda of the generalised advantage estimate: 1 counts what was earned, 0 what the value head expects; left out, 0.95."""
    epochs: Annotated[int, Field(ge=1, le=16)] | None = None
    """Updates learned from each batch of answers before new ones are sampled; left out, 4."""
    value_coefficient: Annotated[float, Field(ge=0, le=10)] | None = None
    """Weight of the value head's loss, which shares the model's layers; left out, 0.1."""


class GrpoMethod(ApiModel):
    """Group-relative policy optimisation: several answers to each prompt, and each is learned from by how much better it is
    than the others of its group (Shao et al. 2024)."""

    model_config = ConfigDict(json_schema_extra=cel(SOURCE))

    rewards: Rewards | None = None
    """What an answer is rewarded for; their weighted sum is the reward."""
    reward_model: RewardModel | None = None
    """A model that scores answers; its weighted score is added to the rewards."""
    num_generations: Annotated[int, Field(ge=2, le=64)] | None = None
    """Answers sampled for each prompt; batchSize counts answers and is a multiple of it. Left out, 8."""
    max_new_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = None
    """Longest sampled answer; left out, 256, or half of the base's positions."""
    temperature: Annotated[float, Field(gt=0, le=10)] | None = None
    """Of the sampling; left out, 1."""
    beta: Annotated[float, Field(ge=0, le=10)] | None = None
    """Weight of the divergence from the model before training; left out, 0, with a rewardModel 0.04."""
