"""Decide what a FineTuneJob needs next. Pure: no clock, no client, no environment.

``observation`` says what is looked at, ``flow`` is the order of the steps, ``draft`` collects what they decide; called by
:mod:`finetune_operator.act`, which carries the plan out.
"""

from finetune_operator.plan import Controller, itself
from finetune_operator.reconcile.finetunejob.flow import reconcile
from finetune_operator.reconcile.finetunejob.observation import keys, observe

CONTROLLER = Controller(keys, observe, reconcile, itself)
