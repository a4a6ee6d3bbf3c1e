"""One training in several processes: which of them this is, and what they agree on.

The names in the environment are torchrun's, so that torch, accelerate and transformers find themselves in it too; set by
:mod:`finetune_trainer.launcher`.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from finetune_api.reasons import Failure, Reason

GATHERING = timedelta(minutes=30)
"""For all pods to be scheduled, and their images pulled."""
PATIENCE = timedelta(hours=12)
"""The others wait for the first one's evaluation of the base; one that is dead is noticed by the launcher or the Job."""


class World:
    """The processes of a training, of which this is one."""

    def __init__(self, rank: int = 0, size: int = 1, per_node: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._per_node = per_node
        self._control: Any = None

    @property
    def is_first(self) -> bool:
        """The one that reports, evaluates, keeps the checkpoints and publishes."""
        return self.rank == 0

    @property
    def leads_its_node(self) -> bool:
        """The one that downloads what the processes of a pod share."""
        return self.rank % self._per_node == 0

    def shared(self, work: Path) -> Path:
        """Scratch space of all processes of this pod, of each of which ``work`` is a folder in it."""
        return work if self.size == 1 else work.parent

    def join(self, device: str, gathering: timedelta = GATHERING) -> None:
        """Wait until all are there. Raises Failure where they are not in time."""
        if self.size == 1:
            return
        import torch.distributed as group

        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            store = group.TCPStore(  # type: ignore[attr-defined]  # of torch's C++ part
                host, port, self.size, is_master=self.is_first, timeout=gathering
            )
        except group.DistError as error:
            raise Failure(
                Reason.INTERRUPTED,
                f"not all {self.size} processes of the training came together at {host}:{port} within "
                f"{gathering.total_seconds() / 60:.0f} minutes; are all pods scheduled, and may they reach each other?",
            ) from error
        backend = "nccl" if device == "cuda" else "gloo"
        group.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        # On the CPU, so that no agreement waits for a GPU.
        self._control = group.new_group(backend="gloo", timeout=PATIENCE)

    def wait(self) -> None:
        """For all the others to come here too."""
        if self.size > 1:
            import torch.distributed as group

            group.barrier(self._control)

    def any(self, wish: bool) -> bool:
        """Whether one of them wishes; all ask at the same place."""
        if self.size == 1:
            return wish
        import torch
        import torch.distributed as group

        wishes = torch.tensor(float(wish))
        group.all_reduce(wishes, group.ReduceOp.MAX, group=self._control)
        return bool(wishes.item())

    def from_first(self, value: Any) -> Any:
        """The first one's value."""
        if self.size == 1:
            return value
        import torch.distributed as group

        values = [value]
        group.broadcast_object_list(values, src=0, group=self._control)
        return values[0]

    def gathered(self, value: Any) -> list[Any]:
        """Every process's, in the order of their ranks; all of them have all."""
        if self.size == 1:
            return [value]
        import torch.distributed as group

        values: list[Any] = [None] * self.size
        group.all_gather_object(values, value, group=self._control)
        return values

    def gather_random_numbers(self, folder: Path) -> None:
        """Bring every process's file of random numbers into the first one's checkpoint: the others' are not stored."""
        if self.size == 1:
            return
        import torch.distributed as group

        own = (folder / f"rng_state_{self.rank}.pth").read_bytes()
        data: list[Any] | None = [None] * self.size if self.is_first else None
        group.gather_object(own, data, dst=0, group=self._control)
        for rank, each in enumerate(data or []):
            (folder / f"rng_state_{rank}.pth").write_bytes(each)

    def check_checkpoint(self, folder: Path) -> None:
        """A checkpoint holds the random numbers of each process: with another number of them the course would be another."""
        found = len(list(folder.glob("rng_state*.pth")))
        if found != self.size:
            raise Failure(
                Reason.CONFIG_INVALID,
                f"the checkpoint was written by {found} processes and this training has {self.size}; "
                "gpus and nodes must stay what they were at the job's start: create the job anew",
            )

    def leave(self) -> bool:
        """The first one goes on alone: whether this is it."""
        if self.size > 1:
            import torch.distributed as group

            group.destroy_process_group()
        return self.is_first


def world_of(environment: Mapping[str, str] = os.environ) -> World:
    """As the environment says; without a word this process is the only one."""
    return World(*(int(environment.get(name, default)) for name, default in NAMES.items()))


NAMES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
