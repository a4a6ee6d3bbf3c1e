"""A container that was gone when its node came back did not fail: the attempt is lost, and counts against nothing."""

import pytest

from builders import TRAIN, World, a_job, an_error
from finetune_api.reasons import Reason


@pytest.mark.parametrize(
    ("code", "reason"), [(255, "Unknown"), (137, "ContainerStatusUnknown")], ids=["containerd's word", "the kubelet's"]
)
def test_a_container_nobody_saw_end_is_lost(code: int, reason: str) -> None:
    world = World(a_job(maxRetries=0))
    world.training()
    world.end_pod(TRAIN, code, "", reason)
    status = world.settle()
    record = status["attempts"][-1]
    assert (record["outcome"], record["counts"], status["state"]) == ("Infrastructure", False, "Retrying")
    assert record["message"] == (
        f"Its node was restarted, or lost the container: nobody saw it end ({reason}, exit code {code})."
    )


def test_what_it_had_said_before_counts() -> None:
    world = World(a_job())
    world.training()
    world.end_pod(TRAIN, 255, an_error("Train", Reason.NON_FINITE_LOSS), "Unknown")
    assert world.settle()["attempts"][-1]["outcome"] == "NonFiniteLoss"
