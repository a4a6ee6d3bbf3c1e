"""Adapters and bases that the pod refuses, each for its reason."""

import json
from pathlib import Path

from openai import OpenAI

from finetune_api.pods import DesiredAdapter
from finetune_storage import open_store
from served_pool import Made, ServedPool, said_by, write_adapter


class TestRefusals:
    """A bad new adapter is reported by both values and reason; the earlier one goes on serving."""

    def refused(self, pool: ServedPool, made: Made, client: OpenAI, name: str, bad: DesiredAdapter) -> tuple[str, str]:
        good = pool.publish(name, made.adapters["red"])
        pool.wish(good)
        pool.until_loaded(good)
        pool.wish(bad)
        pool.until("refused", lambda: (said := pool.operator.said(name)) and said.state == "Failed")
        said = pool.operator.said(name)
        assert said is not None
        assert (said.desired_digest, said.digest) == (bad.digest, good.digest)
        assert said_by(client, name) == made.texts["red"], "the old adapter keeps serving"
        pool.drop(name)
        return said.reason or "", said.message or ""

    def test_a_wrong_digest(self, pool: ServedPool, made: Made, client: OpenAI) -> None:
        real = pool.publish("digest", made.adapters["blue"])
        wrong = real.model_copy(update={"digest": "sha256:" + "0" * 64})
        reason, message = self.refused(pool, made, client, "digest", wrong)
        assert reason == "DigestMismatch"
        assert real.digest in message
        assert wrong.digest in message

    def test_a_changed_file(self, pool: ServedPool, made: Made, client: OpenAI, tmp_path: Path) -> None:
        adapter = write_adapter(tmp_path / "changed", made.base, seed=9)
        bad = pool.publish("changed", adapter)
        open_store(bad.uri, pool.secret).put("adapter_model.safetensors", b"x")
        reason, message = self.refused(pool, made, client, "changed", bad)
        assert reason == "DigestMismatch"
        assert "adapter_model.safetensors" in message

    def test_another_base(self, pool: ServedPool, made: Made, client: OpenAI, tmp_path: Path) -> None:
        adapter = write_adapter(tmp_path / "foreign", made.base, seed=8)
        bad = pool.publish("base-model", adapter, base_uri="s3://models/other", base_digest="sha256:" + "1" * 64)
        reason, message = self.refused(pool, made, client, "base-model", bad)
        assert reason == "BaseModelMismatch"
        assert "s3://models/other" in message
        assert pool.base_digest in message

    def test_a_rank_above_the_servers(self, pool: ServedPool, made: Made, client: OpenAI, tmp_path: Path) -> None:
        bad = pool.publish("rank", write_adapter(tmp_path / "high", made.base, seed=7, rank=17))
        assert self.refused(pool, made, client, "rank", bad) == (
            "RankTooHigh",
            "the adapter has rank 17, the server accepts at most 16 (runtime maxLoraRank)",
        )

    def test_target_modules_the_base_does_not_have(
        self, pool: ServedPool, made: Made, client: OpenAI, tmp_path: Path
    ) -> None:
        adapter = write_adapter(tmp_path / "targets", made.base, seed=6)
        config = adapter / "adapter_config.json"
        config.write_text(config.read_text().replace("q_proj", "c_attn"))
        reason, message = self.refused(pool, made, client, "targets", pool.publish("targets", adapter))
        assert reason == "AdapterInvalid"
        assert "c_attn" in message

    def test_nothing_there_and_wrong_credentials(self, pool: ServedPool, made: Made, client: OpenAI) -> None:
        real = pool.publish("missing", made.adapters["blue"])
        bad = real.model_copy(update={"uri": real.uri + "-none", "digest": "sha256:" + "2" * 64})
        reason, message = self.refused(pool, made, client, "missing", bad)
        assert reason == "ArtifactNotFound"
        assert bad.uri in message


class TestBase:
    def fetched(self, pool: ServedPool, tmp_path: Path, **changes: str) -> tuple[int, dict[str, str]]:
        """Exit code and last words of the init container for another base."""
        other = ServedPool(tmp_path, pool.base, pool.base_uri, pool.base_digest, pool.secret, pool.operator)
        base = pool.operator.desired.base_model.model_copy(update=changes)
        (tmp_path / "models").mkdir()
        before = pool.operator.desired
        pool.operator.desired = before.model_copy(update={"base_model": base, "adapters": []})
        try:
            code = other.fetch()
        finally:
            pool.operator.desired = before
        return code, json.loads((tmp_path / "termination.log").read_text())

    def test_a_base_that_is_not_there(self, pool: ServedPool, tmp_path: Path) -> None:
        code, error = self.fetched(pool, tmp_path, uri=f"{pool.base_uri}-none")
        assert (code, error["code"]) == (13, "ModelNotFound")
        assert f"{pool.base_uri}-none" in error["message"]

    def test_a_base_of_another_digest(self, pool: ServedPool, tmp_path: Path) -> None:
        code, error = self.fetched(pool, tmp_path, digest="sha256:" + "3" * 64)
        assert (code, error["code"]) == (18, "ArtifactCorrupt")
        assert pool.base_digest in error["message"]
