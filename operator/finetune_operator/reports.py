"""What pods last said, in memory: losing it loses nothing but freshness. Filled by :mod:`finetune_operator.report_server`."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from finetune_api.pods import DesiredPool, PoolReport, Report

T = TypeVar("T", Report, PoolReport)


class Received(NamedTuple, Generic[T]):
    """A report and when it came."""

    at: datetime
    report: T


@dataclass
class ReportStore:
    """Newest reports of all pods, and the replies to pools."""

    since: datetime
    """When this memory began: an operator that has just started does not know yet what the pods have loaded."""
    jobs: dict[str, Received[Report]] = field(default_factory=dict)
    """By uid of the FineTuneJob."""
    pools: dict[tuple[str, str], dict[str, Received[PoolReport]]] = field(default_factory=dict)
    """By namespace and pool, then by pod."""
    desired: dict[tuple[str, str], DesiredPool] = field(default_factory=dict)
    """Reply to a pool's reports, by namespace and pool."""

    def of_pool(self, namespace: str, pool: str) -> dict[str, Received[PoolReport]]:
        """Reports of a pool's pods, by name of the pod."""
        return self.pools.get((namespace, pool), {})

    def desire(self, namespace: str, pool: str, desired: DesiredPool | None) -> None:
        """Set the reply to a pool; None: the pool is unknown or gone."""
        if desired is None:
            self.desired.pop((namespace, pool), None)
        else:
            self.desired[namespace, pool] = desired

    def forget_job(self, uid: str) -> None:
        """The FineTuneJob is gone."""
        self.jobs.pop(uid, None)

    def forget_pod(self, namespace: str, pool: str, pod: str) -> None:
        """The server pod is gone."""
        reports = self.pools.get((namespace, pool), {})
        reports.pop(pod, None)
        if not reports:
            self.pools.pop((namespace, pool), None)
