"""The table of controllers: which kind of key is handled by what."""

from finetune_operator.plan import Controller

CONTROLLERS: dict[str, Controller] = {
    # "FineTuneJob": finetunejob.CONTROLLER,
    # "Pool": pool.CONTROLLER,
}
