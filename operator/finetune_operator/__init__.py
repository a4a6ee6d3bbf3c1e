"""The controller: watches FineTuneJobs and AdapterDeployments, decides, and carries the decisions out.

``watch`` (kopf) stores what it sees in ``cache`` and puts keys on the queue of ``workers``; a worker lets the key's controller
(``controllers``) observe and reconcile, both pure, and carries the :class:`~finetune_operator.plan.Plan` out through ``cluster``.
"""
