"""``python -m finetune_trainer prepare`` as a process, against a real S3 server: what it writes, and how it ends.

What it refuses has files of its own: rows, quality, base model, storage.
"""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_api.data_report import DataReport
from finetune_api.pods import MAX_SUMMARY_BYTES, Summary
from finetune_api.reasons import EXIT_CODES, Reason
from finetune_storage import Store
from json_lines import jsonl
from prepare_stage import CHAT, Prepare, answers, arguments, dataset, job, resolved_of, rows_of, texts
from s3_server import S3Server
from stage_process import ForkedProgram

ROOT = Path(__file__).parents[2]
FROM_CONFIG = {
    "architecture": "Llama",
    "vocabularySize": 400,
    "hiddenSize": 16,
    "intermediateSize": 32,
    "layers": 1,
    "attentionHeads": 2,
    "maxPositionEmbeddings": 128,
}


class TestWhatItWrites:
    def test_a_first_job_needs_only_base_data_and_output(self, prepare: Prepare, store: Store) -> None:
        found = prepare(answers())
        assert found.prepared.dataset.format == "PromptCompletion"
        assert [(split.name, split.rows) for split in found.prepared.dataset.splits] == [("train", 20)]
        assert rows_of(store, "train") == answers()
        resolved = resolved_of(store)
        assert resolved.method == "sft"
        assert resolved.adapter.type == "LoRA"
        assert resolved.training.steps == found.prepared.plan.steps == 6  # 3 epochs of 20 rows in batches of 16
        assert {choice.field for choice in found.prepared.plan.choices} >= {
            "training.learningRate",
            "adapter.rank",
            "method",
        }
        assert len(found.message) <= MAX_SUMMARY_BYTES

    def test_again_means_the_same_bytes(self, prepare: Prepare, store: Store, bucket: str) -> None:
        settings = {"dataset": dataset(bucket, split={"test": 0.2, "validation": 0.1})}
        first = prepare(answers(), **settings)
        before = {key: store.get(key) for key in store.list("out/")}
        second = prepare(None, **settings)
        assert second.message == first.message
        assert {key: store.get(key) for key in store.list("out/")} == before

    def test_again_means_the_same_tokenizer(self, prepare: Prepare, store: Store) -> None:
        cpt = {"baseModel": {"fromConfig": FROM_CONFIG}, "method": {"cpt": {}}}
        assert prepare(texts(200), **cpt).message == prepare(None, **cpt).message

    @pytest.mark.parametrize(
        ("row", "format_", "prepared"),
        [
            pytest.param(CHAT, "Messages", CHAT, id="messages"),
            pytest.param(
                {"prompt": "a", "completion": "b", "id": 7}, "PromptCompletion", None, id="prompt and completion"
            ),
            pytest.param({"instruction": "Add.", "input": "1 1", "output": "2"}, "Alpaca", None, id="alpaca"),
        ],
    )
    def test_formats_are_told_by_their_fields(
        self, prepare: Prepare, store: Store, row: dict[str, Any], format_: str, prepared: dict[str, Any] | None
    ) -> None:
        assert prepare([row]).prepared.dataset.format == format_
        (written,) = rows_of(store, "train")
        if prepared is not None:
            assert written == prepared
        else:
            assert set(written) == {"prompt", "completion"}

    def test_own_column_names_are_mapped(self, prepare: Prepare, store: Store, bucket: str) -> None:
        columns = {"prompt": "question", "completion": "answer"}
        assert prepare([{"question": "a?", "answer": "b"}], dataset=dataset(bucket, columns=columns)).prepared
        assert rows_of(store, "train") == [{"prompt": "a?", "completion": "b"}]

    def test_raw_text_for_a_model_from_a_config(self, prepare: Prepare, store: Store, tmp_path: Path) -> None:
        cpt = {"baseModel": {"fromConfig": FROM_CONFIG}, "method": {"cpt": {}}}
        found = prepare(texts(40), **cpt)
        assert found.prepared.dataset.format == "Text"
        resolved = resolved_of(store)
        assert resolved.from_config is not None
        assert resolved.adapter.type == "Full"
        assert resolved.training.packing
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(found.work / "data/tokenizer", local_files_only=True)
        text = "The number 3, naïvely: 日本\n"
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        rendered = tokenizer.apply_chat_template(
            CHAT["messages"], return_dict=True, return_assistant_tokens_mask=True, tokenize=True
        )
        answer = [token for token, mine in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if mine]
        assert tokenizer.decode(answer) == "good day<|im_end|>"
        assert (
            store.get("out/team-a/job/uid-1/data/tokenizer/tokenizer.json")
            == (found.work / "data/tokenizer/tokenizer.json").read_bytes()
        )

    def test_general_texts_are_mixed_into_raw_text(self, prepare: Prepare, store: Store, bucket: str) -> None:
        general = [{"text": f"Something else {i}: the sky is blue and the grass is green."} for i in range(40)]
        store.put("general/texts.jsonl", jsonl(general))
        source = {"uri": f"{bucket}/general/*.jsonl", "secretRef": {"name": "s3"}}
        found = prepare(texts(), method={"cpt": {}}, dataset=dataset(bucket, mix={"source": source, "share": 0.3}))
        split = found.prepared.dataset.splits[0]
        report = DataReport.model_validate_json(store.get("out/team-a/job/uid-1/data/report.json"))
        written = [row for row in rows_of(store, "train") if row in general]
        assert found.prepared.dataset.mixed == report.mixed == len(written) == split.rows - 20
        assert report.mixed_tokens / report.splits[0].tokens == pytest.approx(0.3, abs=0.05)
        assert [source.rows for source in report.sources] == [20, 40]

    def test_sources_from_a_config_map(self, prepare: Prepare, store: Store, tmp_path: Path) -> None:
        for split, rows in (("train", answers(9)), ("test", answers(3))):
            (tmp_path / "sources" / split).mkdir(parents=True)
            (tmp_path / "sources" / split / "rows.jsonl").write_bytes(jsonl(rows))
        source = {"configMap": {"name": "rows", "key": "rows.jsonl"}}
        found = prepare(None, dataset={"train": source, "test": source})
        assert {split.name: split.rows for split in found.prepared.dataset.splits} == {"train": 6, "test": 3}
        assert found.prepared.dataset.duplicates == 3, "what is tested is not trained on"

    def test_many_files_of_several_kinds(self, prepare: Prepare, store: Store, bucket: str) -> None:
        store.put("rows/a/1.jsonl", jsonl(answers(3)))
        store.put("rows/b/2.json", json.dumps(answers(5)).encode())
        store.put("rows/b/3.csv.gz", gzip.compress(b"prompt,completion\nq,a\n"))
        store.put("rows/_SUCCESS", b"")
        source = {"uri": f"{bucket}/rows/", "secretRef": {"name": "s3"}}
        assert prepare(None, dataset={"train": source}).prepared.dataset.splits[0].rows == 6
        store.put("rows/b/3.csv.gz", gzip.compress(b"prompt,completion\nq,\n"))
        source = {"uri": f"{bucket}/rows/**/?.*", "secretRef": {"name": "s3"}}
        message = prepare(None, dataset={"train": source}).failure(Reason.DATA_INVALID)
        assert f"{bucket}/rows/b/3.csv.gz line 2, field completion: found an empty string" in message

    def test_a_pattern_without_files(self, prepare: Prepare, bucket: str) -> None:
        source = {"uri": f"{bucket}/rows/*.parquet", "secretRef": {"name": "s3"}}
        message = prepare(None, dataset={"train": source}).failure(Reason.DATASET_NOT_FOUND)
        assert f"{bucket}/rows/*.parquet: no file there matches" in message

    def test_torch_is_not_imported(self, bucket: str, base: str, store: Store, tmp_path: Path) -> None:
        store.put("data/train.jsonl", jsonl(answers()))
        flags, _ = arguments(job(bucket, base), tmp_path)
        command = [sys.executable, "-X", "importtime", "-m", "finetune_trainer", *flags]
        python_path = f"{ROOT / 'operator'}:{ROOT / 'trainer_image'}"
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": python_path}, capture_output=True, text=True, check=True
        )
        modules = {
            line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
        }
        assert "transformers" in modules
        assert not modules & {"torch", "torch.nn", "peft", "trl.trainer.sft_trainer"}


class TestTheProcess:
    def test_sigterm_ends_it_as_interrupted(
        self, bucket: str, base: str, s3_server: S3Server, tmp_path: Path, secret: Path
    ) -> None:
        s3_server.secret(secret, AWS_ENDPOINT_URL="http://127.0.0.1:1")  # it waits for this store
        flags, log = arguments(job(bucket, base), tmp_path)
        process = ForkedProgram("finetune_trainer", flags)
        assert any("trying again" in line for line in process.stdout)
        began = time.monotonic()
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 143
        assert time.monotonic() - began < 10
        assert Summary.model_validate_json(log.read_bytes()).error.code == "Interrupted"  # type: ignore[union-attr]

    def test_a_config_that_is_not_there(self, tmp_path: Path) -> None:
        flags, log = arguments({}, tmp_path)
        (tmp_path / "job.json").unlink()
        process = ForkedProgram("finetune_trainer", flags)
        process.communicate(timeout=60)
        assert process.returncode == EXIT_CODES[Reason.CONFIG_INVALID]
        assert "job.json" in Summary.model_validate_json(log.read_bytes()).error.message  # type: ignore[union-attr]
