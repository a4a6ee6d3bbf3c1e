"""Where the curves of a training are written beside metrics.jsonl, in the shapes of experiment trackers."""

from pydantic import ConfigDict

from finetune_api.model import ApiModel, ShortText, Uri, cel
from finetune_api.v1alpha1.references import SecretRef

ADDRESS = "self.uri.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')"
"""Without credentials; as CEL."""


class TensorboardTracking(ApiModel):
    """Event files in tracking/tensorboard/ of the job's folder, for ``tensorboard --logdir``."""


class WandbTracking(ApiModel):
    """A run in tracking/wandb/ of the job's folder, for ``wandb sync``; its id is the job's uid. With secretRef it is sent as well."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                r"self.project.size() <= 128 && !self.project.matches('[/\\\\#?%:]')",
                r"a project of Weights & Biases has at most 128 characters, and none of / \ # ? % :",
            ),
            (
                "!has(self.uri) || has(self.secretRef)",
                "uri is where the run is sent with the key of secretRef: set secretRef, or leave uri out",
            ),
            (f"!has(self.uri) || {ADDRESS}", "uri is the http:// or https:// address of a server of Weights & Biases"),
        )
    )

    project: ShortText
    """Project of the run."""
    entity: ShortText | None = None
    """User or team; left out, that of whoever syncs."""
    uri: Uri | None = None
    """Address of a server of one's own; left out, https://api.wandb.ai."""
    secret_ref: SecretRef | None = None
    """Secret with the key WANDB_API_KEY; left out, nothing is sent."""


class MlflowTracking(ApiModel):
    """A run at an MLflow tracking server, from the beginning of the training on: settings as parameters, curves and evaluation as
    metrics, job, uid, artifact and digest as tags (finetune.dev/...). A retried job goes on with its run."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                ADDRESS,
                "uri is the http:// or https:// address of a tracking server, without credentials; those are in secretRef",
            )
        )
    )

    uri: Uri
    """Address of the tracking server."""
    experiment: ShortText
    """Name of the experiment; made where it is not there."""
    run_name: ShortText | None = None
    """Name of the run; left out, namespace and name of the job."""
    secret_ref: SecretRef | None = None
    """Secret with the key MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""


class TrackingSpec(ApiModel):
    """Trackers the curves are written for: MLflow while training goes on, the others when it is done. One that fails does not
    fail the job: see status.trackingError."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "has(self.tensorboard) || has(self.wandb) || has(self.mlflow)",
                "name a tracker: tensorboard: {}, wandb or mlflow",
            )
        )
    )

    tensorboard: TensorboardTracking | None = None
    """TensorBoard."""
    wandb: WandbTracking | None = None
    """Weights & Biases, offline or sent."""
    mlflow: MlflowTracking | None = None
    """A tracking server of MLflow."""
