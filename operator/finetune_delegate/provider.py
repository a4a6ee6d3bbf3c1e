"""What a provider must be able to do: few verbs over plain values. Implemented by :mod:`finetune_delegate.openai_service` and
:mod:`finetune_delegate.vertex_service`, driven by :mod:`finetune_delegate.follow`; no other module names a provider's library.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from finetune_api.artifacts import InPlace
from finetune_api.pods import JobConfig
from finetune_api.v1alpha1.finetunejob_status import Checkpoint
from finetune_api.v1alpha1.provider import ProviderModel
from finetune_stage.chats import Chat
from finetune_stage.outcome import Places

End = Literal["Succeeded", "Failed", "Cancelled"]
UNKNOWN = "Unknown"


class Unsure(Exception):
    """A request may or may not have been carried out: its answer was lost."""


@dataclass(frozen=True)
class View:
    """A tuning job as the provider shows it."""

    job: str
    """The provider's name of it."""
    created: float
    """Unix time."""
    state: str
    """A word for people, and a condition's reason: Queued, WaitingForQuota, Running, Paused …, Unknown."""
    end: End | None = None
    """None while it goes on."""
    message: str = ""
    """What the provider says; of an unknown state its own name."""
    model: str | None = None
    endpoint: str | None = None
    billed_tokens: int | None = None
    steps: int | None = None
    """Optimiser steps in all, where they are known."""
    seconds_left: int | None = None
    checkpoints: tuple[Checkpoint, ...] = ()


@dataclass(frozen=True)
class Logged:
    """A step the provider logged."""

    id: str
    """Of the provider's event."""
    step: int
    time: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """train_loss, valid_loss, … as the provider calls them."""
    total_steps: int | None = None


@dataclass(frozen=True)
class Task:
    """What shall be done, for whom."""

    config: JobConfig
    places: Places
    patience: float = 600.0
    """Seconds for which a provider that does not answer is waited for."""

    @property
    def uid(self) -> str:
        """uid of the FineTuneJob: what a provider's job is known by."""
        return self.config.uid

    @property
    def base(self) -> str:
        """The provider's own name of the base model."""
        return str(self.config.base_model.uri).split("://", 1)[1]


class Provider(Protocol):
    """A service that tunes models. Every method raises Failure for an end, and waits out what may pass."""

    def upload(self, split: str, path: Path) -> str:
        """The provider's name of a converted file; one that lies there already is used in place."""

    def unchanged(self, file: InPlace) -> str:
        """The provider's name of a file that lies there already. Raises Failure(DATA_INVALID) where it changed since it was checked."""

    def request(self, files: Mapping[str, str]) -> str:
        """The exact request :meth:`submit` would send, as text; nothing is sent."""

    def find(self) -> list[View]:
        """The tuning jobs of this FineTuneJob, the oldest first; a provider's list may lag."""

    def submit(self, files: Mapping[str, str]) -> View:
        """Create the tuning job: one request, never repeated. Raises Unsure where its answer was lost."""

    def look(self, job: str) -> View:
        """A tuning job as it stands."""

    def logged(self, job: str, after: str | None) -> list[Logged]:
        """What was logged after an event, the oldest first."""

    def cancel(self, job: str) -> None:
        """Ask for the end of a tuning job; one that has ended is fine."""

    def answer(self, model: str, chat: Chat, max_tokens: int) -> str:
        """What a model (tuned, or the base by its own name) says, as deterministically as the provider allows."""

    def made(self, view: View) -> ProviderModel:
        """What the artifact says of a job that succeeded."""
