"""The table of controllers: which kind of key is handled by what."""

from finetune_operator.plan import Controller
from finetune_operator.reconcile import adapterdeployment, finetunejob, pool

CONTROLLERS: dict[str, Controller] = {
    "FineTuneJob": finetunejob.CONTROLLER,
    "AdapterDeployment": adapterdeployment.CONTROLLER,
    "Pool": pool.CONTROLLER,
}
