"""What a path is about, for the count of calls."""

import pytest

from finetune_operator.cluster import path, resource_of


@pytest.mark.parametrize(
    ("target", "resource"),
    [
        pytest.param(path("Job", "team-a", "train-1"), "jobs", id="one object"),
        pytest.param(
            path("FineTuneJob", "jobs", "pods", "status"), "finetunejobs", id="a namespace named like a resource"
        ),
        pytest.param(path("Pod"), "pods", id="all namespaces"),
        pytest.param(path("Namespace", "", "jobs"), "namespaces", id="a namespace"),
        pytest.param(path("TokenReview"), "tokenreviews", id="no namespace"),
    ],
)
def test_the_resource_of_a_path(target: str, resource: str) -> None:
    assert resource_of(target) == resource
