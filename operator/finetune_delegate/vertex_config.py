"""Every tuning option of the google-genai client, from the spec. Pure."""

from google.genai import types

from finetune_api.pods import JobConfig
from finetune_api.v1alpha1.provider import VertexBackend

UID = "finetune-uid"
"""Label by which a tuning job is found again."""
SIZES = {1: "ONE", 2: "TWO", 4: "FOUR", 8: "EIGHT", 16: "SIXTEEN", 32: "THIRTY_TWO"}


def tuning_config(
    config: JobConfig, backend: VertexBackend, validation: types.TuningValidationDataset | None
) -> types.CreateTuningJobConfig:
    """What is stated; the rest is left out, for the provider to decide."""
    spec, training = config.spec, config.spec.training
    key = backend.encryption_key
    own = {UID: config.uid, "finetune-job": config.name, "finetune-namespace": config.namespace}
    return types.CreateTuningJobConfig(
        method=types.TuningMethod.PREFERENCE_TUNING if _is_dpo(config) else types.TuningMethod.SUPERVISED_FINE_TUNING,
        validation_dataset=validation,
        tuned_model_display_name=backend.display_name or config.name,
        description=backend.description,
        epoch_count=int(training.epochs) if training and training.epochs else None,
        learning_rate_multiplier=backend.learning_rate_multiplier,
        learning_rate=training.learning_rate if training else None,
        batch_size=training.batch_size if training else None,
        adapter_size=_size(config),
        tuning_mode=_mode(config, backend),
        export_last_checkpoint_only=backend.export_last_checkpoint_only,
        pre_tuned_model_checkpoint_id=backend.pre_tuned_checkpoint_id,
        custom_base_model=backend.custom_base_model_uri,
        output_uri=backend.output_uri,
        encryption_spec=types.EncryptionSpec(kms_key_name=key) if key else None,
        beta=spec.method.dpo.beta if spec.method and spec.method.dpo else None,
        labels={**(backend.labels or {}), **own},
    )


def _is_dpo(config: JobConfig) -> bool:
    return config.spec.method is not None and config.spec.method.dpo is not None


def _size(config: JobConfig) -> types.AdapterSize | None:
    rank = config.spec.adapter.rank if config.spec.adapter else None
    return types.AdapterSize(f"ADAPTER_SIZE_{SIZES[rank]}") if rank else None


def _mode(config: JobConfig, backend: VertexBackend) -> types.TuningMode | None:
    """Only open models, whose weights are written to outputUri, have a choice."""
    adapter = config.spec.adapter
    if adapter is None or backend.output_uri is None:
        return None
    return types.TuningMode.TUNING_MODE_FULL if adapter.type == "Full" else types.TuningMode.TUNING_MODE_PEFT_ADAPTER
