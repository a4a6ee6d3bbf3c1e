"""What is usual for each method: learning rate, passes over the data, the method's own settings. Pure; used by the plan.

method           Full     adapter   epochs
sft              2e-5     2e-4      3
cpt              2e-5     2e-4      1
dpo              1e-6     1e-5      1        beta 0.1, loss Sigmoid
kto              1e-6     1e-5      1        beta 0.1, loss Kto, both weights 1
orpo             8e-6     8e-5      1        beta 0.1
reward           1e-5     1e-4      1
ppo, grpo        1e-6     1e-5      1        see :mod:`finetune_trainer.sampling`
classification   2e-5     2e-4      3        the training rows' classes
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

from finetune_api.matrix import MethodName
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.methods import (
    ClassificationMethod,
    DpoLoss,
    DpoMethod,
    KtoLoss,
    KtoMethod,
    OrpoMethod,
    RewardMethod,
)
from finetune_api.v1alpha1.training import MethodSpec
from finetune_trainer.data.classes import Classes

T = TypeVar("T")


class Take(Protocol):
    """Takes a stated value, or notes the chosen one with its reason; the plan's."""

    def take(self, name: str, stated: T | None, chosen: T, reason: str) -> T:
        """The stated value, else the chosen one."""


class Usual(NamedTuple):
    """A method's hyperparameters, where it is nothing special."""

    full_rate: float
    """Peak learning rate where every weight learns."""
    adapter_rate: float
    epochs: float
    sides: int = 1
    """Sequences a row is in a forward pass that is learned from; kto's second one is a pass of its own, without a gradient."""


USUAL: Mapping[MethodName, Usual] = {
    "sft": Usual(2e-5, 2e-4, 3.0),
    "cpt": Usual(2e-5, 2e-4, 1.0),
    "dpo": Usual(1e-6, 1e-5, 1.0, sides=2),
    "kto": Usual(1e-6, 1e-5, 1.0),
    "orpo": Usual(8e-6, 8e-5, 1.0, sides=2),
    "reward": Usual(1e-5, 1e-4, 1.0, sides=2),
    "ppo": Usual(1e-6, 1e-5, 1.0),
    "grpo": Usual(1e-6, 1e-5, 1.0),
    "classification": Usual(2e-5, 2e-4, 3.0),
}


def settings(method: MethodName, stated: MethodSpec, choices: Take, classes: Classes | None = None) -> MethodSpec:
    """The method's member with nothing left out; those of sft and cpt are decided with the training."""
    if method == "dpo":
        return MethodSpec(dpo=_dpo(stated.dpo or DpoMethod(), choices))
    if method == "classification" and classes is not None:
        return MethodSpec(
            classification=_classification(stated.classification or ClassificationMethod(), classes, choices)
        )
    if method == "kto":
        return MethodSpec(kto=_kto(stated.kto or KtoMethod(), choices))
    if method == "orpo":
        beta = choices.take("method.orpo.beta", stated.orpo.beta if stated.orpo else None, 0.1, "that of the paper")
        return MethodSpec(orpo=OrpoMethod(beta=beta))
    if method == "reward":
        reward = stated.reward or RewardMethod()
        centre = choices.take(
            "method.reward.centerCoefficient", reward.center_coefficient, 0.0, "only differences count"
        )
        return MethodSpec(reward=reward.model_copy(update={"center_coefficient": centre}))
    return stated


def _dpo(stated: DpoMethod, choices: Take) -> DpoMethod:
    usual: list[DpoLoss] = ["Sigmoid"]
    losses = choices.take("method.dpo.lossTypes", stated.loss_types, usual, "that of the paper")
    smoothing = stated.label_smoothing
    if "Robust" in losses:
        smoothing = choices.take("method.dpo.labelSmoothing", smoothing, 0.1, "loss Robust: one pair in ten is wrong")
    elif "ExoPair" in losses:
        smoothing = choices.take("method.dpo.labelSmoothing", smoothing, 1e-3, "loss ExoPair: that of its paper")
    return stated.model_copy(
        update={
            "beta": choices.take("method.dpo.beta", stated.beta, 0.1, "usual"),
            "loss_types": losses,
            "label_smoothing": smoothing,
        }
    )


def _kto(stated: KtoMethod, choices: Take) -> KtoMethod:
    usual: KtoLoss = "Kto"
    loss = choices.take("method.kto.lossType", stated.loss_type, usual, "that of the paper")
    return KtoMethod(
        beta=choices.take("method.kto.beta", stated.beta, 0.1, "usual"),
        loss_type=loss,
        desirable_weight=choices.take("method.kto.desirableWeight", stated.desirable_weight, 1.0, "usual"),
        undesirable_weight=choices.take("method.kto.undesirableWeight", stated.undesirable_weight, 1.0, "usual"),
    )


def _classification(stated: ClassificationMethod, classes: Classes, choices: Take) -> ClassificationMethod:
    several = choices.take("method.classification.multiLabel", stated.multi_label, classes.several, "as the rows are")
    if classes.several and not several:
        raise Failure(
            Reason.DATA_INVALID,
            "method.classification.multiLabel is false, but there are rows with several classes or none; leave it out",
        )
    names = stated.labels or list(classes.names)
    if stated.labels is None:
        shown = ", ".join(names)[:200]  # there may be a thousand
        choices.take("method.classification.labels", None, shown, "those of the training rows, sorted")
    return ClassificationMethod(multi_label=several, labels=names)
