"""Read job.json, write the summary of a stage that succeeded, exit 0."""

import sys
from pathlib import Path

from finetune_api.pods import CONFIG_FILE, MAX_SUMMARY_BYTES, TERMINATION_LOG, JobConfig, Prepared, Summary, Trained
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus, DatasetStatus, PlanStatus, SplitStatistics

DIGEST = "sha256:" + "0" * 64


def summary(stage: str, config: JobConfig) -> Summary:
    """What a real trainer would say after one row."""
    if stage == "prepare":
        dataset = DatasetStatus(format="Text", splits=[SplitStatistics(name="train", rows=1)], resolved_digest=DIGEST)
        return Summary(stage="Prepare", prepared=Prepared(dataset=dataset, plan=PlanStatus(choices=[], steps=1)))
    artifact = ArtifactStatus(kind="Adapter", uri=f"{config.spec.output.uri}/adapter", digest=DIGEST)
    return Summary(stage="Train", trained=Trained(artifact=artifact, gate_passed=True, trained_tokens=1, steps=1))


if __name__ == "__main__":
    text = summary(sys.argv[1], JobConfig.model_validate_json(Path(CONFIG_FILE).read_bytes())).model_dump_json(
        by_alias=True, exclude_none=True
    )
    assert len(text) <= MAX_SUMMARY_BYTES
    Path(TERMINATION_LOG).write_text(text)
