"""Small types both kinds use: references within the namespace, models, pod settings."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, Digest, Name, Quantity, ShortText, Uri, cel, exactly_one


class SecretRef(ApiModel):
    """A Secret of the same namespace, mounted as files into the pods that need it; the operator never reads it.

    Keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_ENDPOINT_URL, AWS_REGION, CA_BUNDLE, HF_TOKEN,
    OPENAI_API_KEY, OPENAI_ORG_ID, OPENAI_PROJECT_ID, MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME,
    MLFLOW_TRACKING_PASSWORD, credentials.json.
    """

    name: Name
    """Name of the Secret."""


class JobRef(ApiModel):
    """A FineTuneJob of the same namespace."""

    name: Name
    """Name of the FineTuneJob."""


class EarlierAdapter(ApiModel):
    """An adapter that a job made on the same base: by its address, or by the job."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("uri", "jobRef"),
            (
                "!has(self.uri) || self.uri.matches('^s3://[^/]+/.+')",
                "uri is s3://bucket/folder, the folder of an adapter",
            ),
            ("!has(self.digest) || has(self.uri)", "digest belongs to a uri; a jobRef brings its own"),
        )
    )

    uri: Uri | None = None
    """Its folder, as in status.artifact.uri of the job that made it."""
    job_ref: JobRef | None = None
    """The job that makes it; this one waits until it is Complete."""
    digest: Digest | None = None
    """Expected sha256 of the folder's manifest.json; verified."""
    secret_ref: SecretRef | None = None
    """Credentials to read it; left out with a jobRef, those of that job's output."""


class ModelRef(ApiModel):
    """A model by its address."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.uri.matches('^(hf|s3)://.+')",
                "uri starts with hf:// (hf://owner/name) or s3:// (s3://bucket/folder)",
            ),
            ("!has(self.revision) || self.uri.startsWith('hf://')", "revision belongs to an hf:// uri"),
        )
    )

    uri: Uri
    """hf://owner/name, or s3://bucket/folder holding config.json, tokenizer and safetensors."""
    revision: ShortText | None = None
    """Branch, tag or commit of an hf:// model."""
    digest: Digest | None = None
    """Expected sha256 of the folder's manifest.json; verified before use."""
    secret_ref: SecretRef | None = None
    """Credentials to read it."""


class Resources(ApiModel):
    """What a container asks for; requests and limits are the same."""

    cpu: Quantity | None = None
    """Cores, for example "4" or "500m"."""
    memory: Quantity | None = None
    """Memory, for example "16Gi"."""


class Toleration(ApiModel):
    """A taint the pods accept (core/v1 Toleration)."""

    key: Annotated[str, Field(max_length=316)] | None = None
    """Key of the taint; left out with Exists matches all."""
    operator: Literal["Exists", "Equal"] | None = None
    """Exists or Equal."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Value of the taint, for Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect to match; left out matches all."""


class PodOptions(ApiModel):
    """The part of a pod's settings that is the user's: where it runs, never what it may do."""

    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=16)] | None = None
    """Labels a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = None
    """Taints the pods accept."""
    image_pull_secrets: Annotated[list[SecretRef], Field(max_length=8)] | None = None
    """Secrets for pulling images."""
    runtime_class_name: Name | None = None
    """RuntimeClass, for example nvidia."""
    priority_class_name: Name | None = None
    """PriorityClass of the pods."""
