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


def release(trainer: Any) -> None:
    """Let go of the optimizer's moments: what is evaluated and published are the weights, and they need the room."""
    for holder in (trainer, trainer.callback_handler):
        holder.optimizer = holder.lr_scheduler = None
    trainer.model.zero_grad(set_to_none=True)
    trainer.accelerator.free_memory()  # and what the allocator keeps of it
