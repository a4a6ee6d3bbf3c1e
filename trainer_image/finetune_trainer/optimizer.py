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
    """Let go of the optimizer's moments, and of the copy in float32 of whatever the model returns, that accelerate makes under bfloat16:
    what is evaluated and published are the weights, and they need the room."""
    for holder in (trainer, trainer.callback_handler):
        holder.optimizer = holder.lr_scheduler = None
    trainer.model.zero_grad(set_to_none=True)
    if "_original_forward" in vars(trainer.model):  # accelerate's own way takes off other wrappers too
        trainer.model.forward = vars(trainer.model).pop("_original_forward")
    trainer.accelerator.free_memory()  # and what the allocator keeps of it
