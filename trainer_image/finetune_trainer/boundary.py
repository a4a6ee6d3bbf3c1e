"""The end of an optimiser step, to which a training that is told to stop within the next one returns.

What the micro-batches of an unfinished step have changed is the random numbers and the counted tokens; weights and optimiser
change at its end only. Used by :mod:`finetune_trainer.train`.
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy
import torch


class Stopped(Exception):
    """The training was told to stop: the step under way is given up before its next micro-batch."""


@dataclass(frozen=True)
class Boundary:
    """Where a step has ended."""

    tokens: int
    python: Any
    numpy: Any
    cpu: torch.Tensor
    cuda: list[torch.Tensor]

    @classmethod
    def here(cls, state: Any) -> "Boundary":
        """As things stand; ``state`` is the TrainerState. Waits for no device."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        tokens = state.num_input_tokens_seen
        return cls(tokens, random.getstate(), numpy.random.get_state(), torch.random.get_rng_state(), cuda)

    def restore(self, state: Any) -> None:
        """Back to it."""
        state.num_input_tokens_seen = self.tokens
        random.setstate(self.python)
        numpy.random.set_state(self.numpy)
        torch.random.set_rng_state(self.cpu)
        torch.cuda.set_rng_state_all(self.cuda)
