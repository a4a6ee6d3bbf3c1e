"""The demo again, where it has run: what is done stays done. Skipped where `make demo` has not run with these images."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo import release
from demo.__main__ import JOBS, data_job, helm_values, lost
from demo.kubectl import Kubectl, is_true

# Beside it no other test may kill the operator or take the processors: it looks at what stays as it was.
pytestmark = [pytest.mark.e2e, pytest.mark.disruptive]

ROOT = Path(__file__).parents[2]


def is_done(cluster: Kubectl, images: dict[str, str]) -> bool:
    """Whether the demo has run to its end with these images, and the store still has what it made."""
    demo, system = cluster.within(release.NAMESPACE), cluster.within(release.SYSTEM)
    done = [demo.find("job", data_job(images["trainer"])[1]["metadata"]["name"])]
    done += [demo.find("finetunejob", name) for name in JOBS]
    stores = system.list("pods", "app.kubernetes.io/component=quickstart-s3")
    revisions = release.history(cluster)
    return (
        all(is_true(each, "Complete") for each in done)
        and lost([each for each in done if each is not None], stores) == []
        and bool(revisions)
        and revisions[-1]["description"] == release.describe(helm_values(images))
    )


def as_it_is(cluster: Kubectl) -> dict[str, Any]:
    """What a second run must leave as it is: Helm's revisions, versions of objects, the pods themselves."""
    demo, system = cluster.within(release.NAMESPACE), cluster.within(release.SYSTEM)
    versions = {
        (where.namespace, kind, each["metadata"]["name"]): each["metadata"]["resourceVersion"]
        for where, kind in ((system, "deployment"), (demo, "job"), (demo, "finetunejob"))
        for each in where.list(kind)
    }
    pods = {each["metadata"]["uid"] for where in (system, demo) for each in where.list("pods")}
    return {"revisions": release.history(cluster), "versions": versions, "pods": pods}


def test_a_second_demo_changes_nothing(cluster: Kubectl) -> None:
    images = Path(os.environ["IMAGES"])
    if not is_done(cluster, json.loads(images.read_text())):
        pytest.skip("the demo has not run to its end on this cluster with these images: run `make demo` first")
    before = as_it_is(cluster)
    assert len(before["versions"]) >= 7, "two Deployments, the data Job, two FineTuneJobs with two Jobs each at least"
    command = [sys.executable, "-m", "demo", "--images", str(images)]
    done = subprocess.run(command, cwd=ROOT, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right answers through the Service" in done.stdout
    assert as_it_is(cluster) == before
