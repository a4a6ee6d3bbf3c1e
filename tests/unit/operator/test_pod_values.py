"""What a pod says goes into the status: what the API server would refuse there, and with it every later status, is refused before."""

import json

import pytest
from pydantic import ValidationError

from builders import COLLECT, DIGEST, TRAIN, World, a_job, a_report, a_summary, condition
from finetune_api.pods import Report, Summary
from finetune_api.v1alpha1.finetunejob_status import Checkpoint

MAX_COLUMN = 32
"""maxLength of the columns loss and eta."""


def with_checkpoint(created_at: str) -> str:
    stored = {"step": 1, "uri": "s3://models/c/1", "createdAt": created_at}
    return json.dumps({"trainerStatus": {}, "checkpoints": [stored]})


@pytest.mark.parametrize(
    "body",
    [
        with_checkpoint("yesterday"),
        with_checkpoint("2026-11-23"),
        with_checkpoint("2026-11-23 12:00:00"),
        with_checkpoint("2026-11-23T12:00:00"),
        with_checkpoint("2026-02-30T12:00:00Z"),
        '{"trainerStatus": {"lastUpdatedTime": "12:00"}}',
        '{"trainerStatus": {}, "resumedFromStep": -1}',
    ],
)
def test_a_report_that_no_status_can_hold_is_none(body: str) -> None:
    with pytest.raises(ValidationError):
        Report.model_validate_json(body)


@pytest.mark.parametrize(
    "time", ["2026-11-23T12:00:00Z", "2026-11-23T12:00:00.123456+00:00", "2024-02-29T23:59:59-05:30"]
)
def test_a_time_may_be_written_in_every_way_the_api_server_takes(time: str) -> None:
    report = Report.model_validate_json(with_checkpoint(time))
    assert report.checkpoints == [Checkpoint(step=1, uri="s3://models/c/1", created_at=time)]


@pytest.mark.parametrize(
    ("replaced", "by"),
    [
        pytest.param('"Accuracy":0.8', '"Accuracy":NaN', id="a figure that is no number"),
        pytest.param('"Accuracy":0.8', '"Accuracy":1e999', id="one without bounds"),
        pytest.param('"trainedTokens":1000', '"trainedTokens":-1', id="fewer tokens than none"),
        pytest.param(
            '"trainedTokens"',
            '"validation":{"loss":NaN,"publishedStep":1,"lastStep":1,"message":""},"trainedTokens"',
            id="a loss that is no number",
        ),
    ],
)
def test_a_summary_that_no_status_can_hold_is_lost_and_read_from_the_manifest(replaced: str, by: str) -> None:
    summary = a_summary("Train")
    bad = summary.replace(replaced, by)
    assert bad != summary
    world = World(a_job())
    world.training()
    world.end_pod(TRAIN, 0, bad)
    world.settle()
    world.end_pod(COLLECT, 0, a_summary("Collect"))
    status = world.settle()
    assert condition(status, "Complete") == ("True", "Complete")
    assert Summary.model_validate_json(summary).trained is not None
    assert status["artifact"]["digest"] == DIGEST


@pytest.mark.parametrize(
    ("loss", "shown"), [(1.2345, "1.234"), (123456.7, "123456.700"), (3e38, "3e+38"), (-1e9, "-1e+09")]
)
def test_a_loss_that_explodes_has_room_in_its_column(loss: float, shown: str) -> None:
    world = World(a_job())
    world.training()
    world.say(a_report(loss=loss, eta=2**63 - 1))
    status = world.settle()
    assert status["loss"] == shown
    assert len(status["eta"]) <= MAX_COLUMN
    world.end_pod(TRAIN, 0, a_summary("Train").replace('"loss":1.2345', f'"loss":{loss}'))
    assert world.settle()["loss"] == shown
