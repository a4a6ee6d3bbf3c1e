"""The job the chart's notes and the README begin with."""

from pathlib import Path

import pytest

from demo.kubectl import Kubectl, is_true
from e2e_jobs import finished

pytestmark = pytest.mark.e2e

FIRST_JOB = Path(__file__).parents[2] / "charts" / "finetune-operator" / "files" / "first-job.yaml"


def test_the_first_job_needs_nothing_but_the_store(namespace: Kubectl) -> None:
    namespace("apply", "-f", str(FIRST_JOB))
    job = finished(namespace, "first", 600)
    assert is_true(job, "Complete"), job["status"]
    evaluation = job["status"]["evaluation"]
    assert evaluation["tuned"]["Loss"] < 0.95 * evaluation["base"]["Loss"]
