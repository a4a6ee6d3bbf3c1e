"""The prepare stage against a store that has not, may not or does not know what it is asked for."""

from pathlib import Path

from finetune_api.reasons import Reason
from prepare_stage import Prepare, answers
from s3_server import S3Server


class TestStorage:
    def test_a_missing_dataset(self, prepare: Prepare, bucket: str) -> None:
        assert f"{bucket}/data/train.jsonl does not exist" in prepare(None).failure(Reason.DATASET_NOT_FOUND)

    def test_a_missing_bucket(self, prepare: Prepare) -> None:
        source = {"uri": "s3://no-such-bucket/rows.jsonl", "secretRef": {"name": "s3"}}
        message = prepare(None, dataset={"train": source}).failure(Reason.DATASET_NOT_FOUND)
        assert "s3://no-such-bucket/rows.jsonl: the bucket does not exist" in message

    def test_a_missing_config_map_key(self, prepare: Prepare) -> None:
        source = {"configMap": {"name": "rows", "key": "rows.jsonl"}}
        message = prepare(None, dataset={"train": source}).failure(Reason.DATASET_NOT_FOUND)
        assert "ConfigMap rows, key rows.jsonl" in message

    def test_a_missing_secret(self, prepare: Prepare, secret: Path) -> None:
        output = {"uri": "s3://models", "secretRef": {"name": "other"}}
        message = prepare(answers(), output=output).failure(Reason.SECRET_NOT_FOUND)
        assert "'other'" in message
        assert "AWS_ACCESS_KEY_ID" in message

    def test_wrong_credentials(self, prepare: Prepare, s3_server: S3Server, bucket: str, secret: Path) -> None:
        s3_server.secret(secret.parent / "wrong", AWS_SECRET_ACCESS_KEY="mistaken")
        source = {"uri": f"{bucket}/data/train.jsonl", "secretRef": {"name": "wrong"}}
        found = prepare(answers(), dataset={"train": source})
        assert f"{bucket}/data/train.jsonl: the store refused the credentials" in found.failure(Reason.ACCESS_DENIED)
        assert "mistaken" not in found.log
        found = prepare(answers(), output={"uri": f"{bucket}/out", "secretRef": {"name": "wrong"}})
        assert "refused the credentials" in found.failure(Reason.OUTPUT_NOT_WRITABLE)

    def test_an_output_that_may_not_be_written(
        self, prepare: Prepare, s3_server: S3Server, bucket: str, secret: Path
    ) -> None:
        s3_server.secret(secret.parent / "reader", identity="reader")
        output = {"uri": f"{bucket}/out", "secretRef": {"name": "reader"}}
        assert "may not write" in prepare(answers(), output=output).failure(Reason.OUTPUT_NOT_WRITABLE)

    def test_an_output_bucket_that_is_not_there(self, prepare: Prepare) -> None:
        output = {"uri": "s3://no-such-bucket", "secretRef": {"name": "s3"}}
        assert "bucket does not exist" in prepare(answers(), output=output).failure(Reason.OUTPUT_NOT_WRITABLE)
