"""Where the curves of a training are written beside metrics.jsonl, in the shapes of experiment trackers."""

from pydantic import ConfigDict

from finetune_api.model import ApiModel, ShortText, cel


class TensorboardTracking(ApiModel):
    """Event files in tracking/tensorboard/ of the job's folder, for ``tensorboard --logdir``."""


class WandbTracking(ApiModel):
    """An offline run in tracking/wandb/ of the job's folder, for ``wandb sync``; its id is the job's uid. Nothing is sent."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                r"self.project.size() <= 128 && !self.project.matches('[/\\\\#?%:]')",
                r"a project of Weights & Biases has at most 128 characters, and none of / \ # ? % :",
            )
        )
    )

    project: ShortText
    """Project of the run."""
    entity: ShortText | None = None
    """User or team; left out, that of whoever syncs."""


class TrackingSpec(ApiModel):
    """Trackers the curves are written for, when the training is done; a retried job writes them once."""

    model_config = ConfigDict(
        json_schema_extra=cel(("has(self.tensorboard) || has(self.wandb)", "name a tracker: tensorboard: {}, or wandb"))
    )

    tensorboard: TensorboardTracking | None = None
    """TensorBoard."""
    wandb: WandbTracking | None = None
    """Weights & Biases, offline."""
