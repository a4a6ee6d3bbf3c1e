"""Condition types and reasons, one comment each: the words programs may rely on.

Failed reasons are a closed list; :data:`EXIT_CODES` ties those a pod can find to its exit code.
"""

from enum import StrEnum


class Stage(StrEnum):
    """Condition types of a FineTuneJob, in the order in which they come true."""

    ACCEPTED = "Accepted"  # the spec can be carried out by this operator
    DATA_VALIDATED = "DataValidated"  # every row was read and checked
    PLANNED = "Planned"  # values left out are decided
    SUSPENDED = "Suspended"  # stopped by spec.suspend
    RUNNING = "Running"  # the train pod runs
    ARTIFACT_STORED = "ArtifactStored"  # the manifest is written
    EVALUATED = "Evaluated"  # base and tuned were compared
    GATE_PASSED = "GatePassed"  # every gate rule held
    COMPLETE = "Complete"  # all done
    FAILED = "Failed"  # ended otherwise
    FINISHED = "Finished"  # Complete or Failed
    STALLED = "Stalled"  # kstatus: nothing will happen until the user acts
    DEPLOY_CONFLICT = "DeployConflict"  # an AdapterDeployment of spec.deploy.name exists and is not this job's


class Reason(StrEnum):
    """Why a job failed (closed list), and the waiting reasons."""

    # Found in the spec or the cluster
    UNSUPPORTED = "Unsupported"  # a combination this version does not implement
    NOT_ALLOWED = "NotAllowed"  # a service account without the annotation finetune.dev/allow
    CANCELLED = "Cancelled"  # spec.cancel
    DEADLINE_EXCEEDED = "DeadlineExceeded"  # activeDeadlineSeconds
    IMAGE_PULL_FAILED = "ImagePullFailed"  # the kubelet cannot pull the image
    INFRASTRUCTURE = "Infrastructure"  # the pod was lost too often
    # Found by a pod
    CONFIG_INVALID = "ConfigInvalid"  # job.json cannot be carried out: spec and image do not fit together
    DATA_INVALID = "DataInvalid"  # a row is broken
    DATASET_NOT_FOUND = "DatasetNotFound"  # the file, key or bucket is not there
    MODEL_NOT_FOUND = "ModelNotFound"  # the base model is not there or cannot be loaded
    SECRET_NOT_FOUND = "SecretNotFound"  # a Secret or a key in it is missing
    ACCESS_DENIED = "AccessDenied"  # the store refused the credentials
    OUTPUT_NOT_WRITABLE = "OutputNotWritable"  # the output cannot be written
    STORAGE_UNAVAILABLE = "StorageUnavailable"  # the store did not answer for minutes
    ARTIFACT_CORRUPT = "ArtifactCorrupt"  # a file does not have the digest its manifest states
    DOES_NOT_FIT = "DoesNotFit"  # the plan needs more memory than the stated GPU has
    OUT_OF_MEMORY = "OutOfMemory"  # device or container memory
    BACKEND_ERROR = (
        "BackendError"  # the provider of a delegated job refused it, or its job failed or was cancelled there
    )
    PROVIDER_UNAVAILABLE = "ProviderUnavailable"  # the provider did not answer for minutes
    NON_FINITE_LOSS = "NonFiniteLoss"  # the loss became NaN or infinite
    INTERRUPTED = "Interrupted"  # SIGTERM; a checkpoint was committed
    INTERNAL_ERROR = "InternalError"  # a bug: anything else
    GATE_FAILED = "GateFailed"  # the artifact is stored and marked


EXIT_CODES: dict[Reason, int] = {
    Reason.INTERNAL_ERROR: 1,
    Reason.CONFIG_INVALID: 10,
    Reason.DATA_INVALID: 11,
    Reason.DATASET_NOT_FOUND: 12,
    Reason.MODEL_NOT_FOUND: 13,
    Reason.SECRET_NOT_FOUND: 14,
    Reason.ACCESS_DENIED: 15,
    Reason.OUTPUT_NOT_WRITABLE: 16,
    Reason.STORAGE_UNAVAILABLE: 17,
    Reason.ARTIFACT_CORRUPT: 18,
    Reason.OUT_OF_MEMORY: 19,
    Reason.NON_FINITE_LOSS: 20,
    Reason.BACKEND_ERROR: 21,
    Reason.PROVIDER_UNAVAILABLE: 22,
    Reason.DOES_NOT_FIT: 24,
    Reason.INTERRUPTED: 143,
}

RETRYABLE = frozenset(
    {Reason.STORAGE_UNAVAILABLE, Reason.PROVIDER_UNAVAILABLE, Reason.OUT_OF_MEMORY, Reason.INTERNAL_ERROR}
)
"""Failures a new attempt can cure, counted against maxRetries; lost and interrupted pods are retried without counting."""


class ServingReason(StrEnum):
    """Why an AdapterDeployment is Ready or not."""

    # Found in the spec or the cluster
    SERVING = "Serving"  # every ready pod answers with the digest asked for
    UNSUPPORTED = "Unsupported"  # a setting this version does not implement
    NOT_ALLOWED = "NotAllowed"  # a service account without the annotation finetune.dev/allow
    WAITING_FOR_JOB = "WaitingForJob"  # no job of that name is Complete yet
    GATE_FAILED = "GateFailed"  # the newest job of that name did not pass its gate
    NAME_TAKEN = "NameTaken"  # an older AdapterDeployment of the pool has the same public model name
    STARTING = "Starting"  # no pod is ready yet
    POD_NOT_STARTING = "PodNotStarting"  # a pod cannot be created, scheduled, pulled or started
    LOADING = "Loading"  # a ready pod does not answer with this digest yet
    SPLIT_INCOMPLETE = "SplitIncomplete"  # a share of traffic.split gets nothing
    # Found by a gateway
    DIGEST_MISMATCH = "DigestMismatch"  # what is stored does not have the digest asked for
    BASE_MODEL_MISMATCH = "BaseModelMismatch"  # trained on another base
    RANK_TOO_HIGH = "RankTooHigh"  # above the server's maximum
    ADAPTER_INVALID = "AdapterInvalid"  # not a LoRA adapter, or the server cannot apply it to the base
    ARTIFACT_NOT_FOUND = "ArtifactNotFound"  # nothing is stored there
    ACCESS_DENIED = "AccessDenied"  # the store or the provider refused the credentials
    STORAGE_UNAVAILABLE = "StorageUnavailable"  # the store does not answer
    SECRET_NOT_FOUND = "SecretNotFound"  # a Secret or a key in it is missing
    PROVIDER_ERROR = "ProviderError"  # the provider does not answer, or with an error
    SERVER_ERROR = "ServerError"  # the model server does not answer or failed


def reason_of(exit_code: int) -> Reason:
    """The reason a pod's exit code stands for; an unknown code is an InternalError."""
    return next((reason for reason, code in EXIT_CODES.items() if code == exit_code), Reason.INTERNAL_ERROR)


class Failure(Exception):
    """An end with a reason from the closed list; the message is the sentence the user reads (what, where, what to do)."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
