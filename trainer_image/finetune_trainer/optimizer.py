"""Optimisers: their names, and what is more than a name to transformers. Called by :mod:`finetune_trainer.train`."""

from typing import Any

from transformers import Trainer

OPTIMIZERS = {
    "AdamW": "adamw_torch_fused",
    "AdamW8bit": "adamw_bnb_8bit",
    "PagedAdamW8bit": "paged_adamw_8bit",
    "Adafactor": "adafactor",
}
"""What transformers calls them."""


def lora_plus(trainer: Any, ratio: float) -> Any:
    """The trainer's own kind of optimiser, in which B learns ``ratio`` times as fast as A."""
    from peft.optimizers import create_loraplus_optimizer

    settings = trainer.args
    kind, options = Trainer.get_optimizer_cls_and_kwargs(settings, trainer.model)
    return create_loraplus_optimizer(
        trainer.model, kind, loraplus_lr_ratio=ratio, loraplus_weight_decay=settings.weight_decay, **options
    )
