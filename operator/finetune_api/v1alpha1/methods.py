"""The settings of the methods that learn from a preference or a class; those of sft and cpt are in :mod:`training`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, ShortText, cel

DpoLoss = Literal[
    "Sigmoid",
    "SigmoidNorm",
    "Hinge",
    "Ipo",
    "ExoPair",
    "NcaPair",
    "Robust",
    "BcoPair",
    "SppoHard",
    "ApoZero",
    "ApoDown",
    "DiscoPop",
    "Sft",
]
KtoLoss = Literal["Kto", "ApoZeroUnpaired"]
SMOOTHED: tuple[DpoLoss, ...] = ("Robust", "ExoPair")
"""Losses that know label smoothing."""
Beta = Annotated[float, Field(gt=0, le=100)]


class DpoMethod(ApiModel):
    """Direct preference optimisation: the chosen answer becomes more probable than the rejected one, measured from a reference.

    The reference is the model before training: the base, or the adapter the training continues.
    """

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.lossWeights) || (has(self.lossTypes) && self.lossWeights.size() == self.lossTypes.size())",
                "lossWeights needs lossTypes, and one weight for each of them",
            ),
            (
                f"!has(self.labelSmoothing) || (has(self.lossTypes) && self.lossTypes.exists(t, t in {list(SMOOTHED)}))",
                "labelSmoothing is for lossTypes Robust and ExoPair",
            ),
        )
    )

    beta: Beta | None = None
    """How strongly the model is held to the reference (Ipo: tau of its paper); left out, 0.1."""
    loss_types: Annotated[list[DpoLoss], Field(min_length=1, max_length=16)] | None = None
    """Losses, added up; left out, Sigmoid. Sft is the likelihood of the chosen answer, Ipo and SigmoidNorm count per token."""
    loss_weights: Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=1, max_length=16)] | None = (
        None
    )
    """Weight of each loss; left out, 1."""
    label_smoothing: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """Robust: share of pairs thought to be the wrong way round, left out 0.1. ExoPair: left out 0.001."""


class RewardMethod(ApiModel):
    """Reward model: a new head gives a text one number, the chosen answer a higher one than the rejected (Bradley-Terry).

    Its artifact scores the answers of ppo and grpo (their rewardModel); it is not served.
    """

    center_coefficient: Annotated[float, Field(ge=0, le=10)] | None = None
    """How strongly the rewards of a pair are drawn to a sum of zero; left out, 0. Usual where used: 0.01."""


class OrpoMethod(ApiModel):
    """Odds-ratio preference optimisation: the chosen answer is learned and preferred at once, without a reference."""

    beta: Beta | None = None
    """Weight of the preference beside the likelihood of the chosen answer (lambda of the paper); left out, 0.1."""


class KtoMethod(ApiModel):
    """Kahneman-Tversky optimisation: answers that are good or bad by themselves; of a preference both sides are used so."""

    beta: Beta | None = None
    """How strongly the model is held to the reference; left out, 0.1."""
    loss_type: KtoLoss | None = None
    """Left out, Kto. ApoZeroUnpaired measures from the reference alone, not from other answers of the batch."""
    desirable_weight: Annotated[float, Field(ge=0, le=100)] | None = None
    """Weight of good answers; left out, 1. Where there are few of them, give them more."""
    undesirable_weight: Annotated[float, Field(ge=0, le=100)] | None = None
    """Weight of bad answers; left out, 1."""


class ClassificationMethod(ApiModel):
    """Sequence classification by a new head, on a decoder or an encoder (BERT and its like); its artifact is not served."""

    multi_label: bool | None = None
    """Whether a text can have several classes, or none; left out, whether a row has."""
    labels: Annotated[list[ShortText], Field(min_length=2, max_length=1000)] | None = None
    """The classes, in the order of the head's scores; left out, those of the training rows in alphabetical order."""
