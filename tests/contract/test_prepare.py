"""``python -m finetune_trainer prepare`` as a process, against a real S3 server: what it writes, and how it refuses."""

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import Resolved
from finetune_api.data_report import DataReport, InvalidRow
from finetune_api.pods import MAX_SUMMARY_BYTES, Summary
from finetune_api.reasons import EXIT_CODES, Reason
from finetune_storage import Store, open_store
from s3_server import S3Server
from stage_process import ForkedProgram
from tiny_models import CHAT_TEMPLATE, write_tiny_llama

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
CHAT = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]}


def answers(count: int = 20) -> list[dict[str, str]]:
    return [{"prompt": f"What is {i} and {i}?", "completion": f" {2 * i}"} for i in range(count)]


def texts(count: int = 20) -> list[dict[str, str]]:
    return [{"text": f"The number {i} comes after the number {i - 1}, and so it goes on."} for i in range(count)]


@dataclass
class Run:
    """A finished prepare process."""

    exit_code: int
    summary: Summary
    message: bytes
    log: str
    work: Path

    def failure(self, reason: Reason) -> str:
        """The message, after checking that it ended with this reason."""
        assert self.summary.error is not None, self.summary
        assert self.summary.error.code == reason, self.log
        assert self.exit_code == EXIT_CODES[reason]
        return self.summary.error.message

    @property
    def prepared(self) -> Any:
        assert self.exit_code == 0, self.summary
        assert self.summary.prepared is not None
        return self.summary.prepared


Prepare = Callable[..., Run]


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def store(bucket: str, secret: Path) -> Store:
    """Root of the test's bucket."""
    return open_store(bucket, secret, patience=20)


@pytest.fixture
def base(tiny_llama: Path, store: Store) -> str:
    """Address of a tiny base model."""
    for path in tiny_llama.iterdir():
        store.upload(path, f"base/{path.name}")
    return store.uri("base")


@pytest.fixture
def prepare(bucket: str, secret: Path, store: Store, base: str, tmp_path: Path) -> Prepare:
    """Run the stage on rows (or the bytes of a file); keywords replace members of the spec."""

    def run(rows: list[Any] | bytes | None, **spec: Any) -> Run:
        if rows is not None:
            store.put("data/train.jsonl", rows if isinstance(rows, bytes) else jsonl(rows))
        flags, log = arguments(job(bucket, base, **spec), tmp_path)
        process = ForkedProgram("finetune_trainer", flags)
        said, _ = process.communicate(timeout=120)
        message = log.read_bytes()
        summary = Summary.model_validate_json(message)
        assert process.returncode is not None
        return Run(process.returncode, summary, message, said, tmp_path / "work")

    return run


def job(bucket: str, base: str, **spec: Any) -> dict[str, Any]:
    """job.json; keywords replace members of the spec, None leaves one out."""
    default = {
        "baseModel": {"uri": base, "secretRef": {"name": "s3"}},
        "dataset": {"train": {"uri": f"{bucket}/data/train.jsonl", "secretRef": {"name": "s3"}}},
        "output": {"uri": f"{bucket}/out", "secretRef": {"name": "s3"}},
    }
    merged = default | spec
    reference = {key: merged["baseModel"].get(key) for key in ("uri", "digest", "secretRef", "revision")}
    return {
        "namespace": "team-a",
        "name": "job",
        "uid": "uid-1",
        "image": "trainer@sha256:0",
        "spec": {key: value for key, value in merged.items() if value is not None},
        "baseModel": {key: value for key, value in reference.items() if value is not None},
    }


def arguments(config: dict[str, Any], folder: Path) -> tuple[list[str], Path]:
    """The program's arguments, and where its termination message will be."""
    (folder / "job.json").write_text(json.dumps(config))
    log = folder / "termination-log"
    options = {
        "config": folder / "job.json",
        "secrets-dir": folder / "secrets",
        "sources-dir": folder / "sources",
        "work-dir": folder / "work",
        "termination-log": log,
        "secret-wait": 0,
        "attempt": 1,
    }
    return ["prepare", *(f"--{name}={value}" for name, value in options.items())], log


def jsonl(rows: list[Any]) -> bytes:
    """JSON lines; a string is taken as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def dataset(bucket: str, **members: Any) -> dict[str, Any]:
    return {"train": {"uri": f"{bucket}/data/train.jsonl", "secretRef": {"name": "s3"}}, **members}


def resolved_of(store: Store) -> Resolved:
    return Resolved.model_validate_json(store.get("out/team-a/job/uid-1/resolved.json"))


def rows_of(store: Store, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.get(f"out/team-a/job/uid-1/data/{split}.jsonl").splitlines()]


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
        prepare([{"question": "a?", "answer": "b"}], dataset=dataset(bucket, columns=columns)).prepared  # noqa: B018
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


class TestBrokenRows:
    def test_file_line_and_field_are_named_and_no_row_is_quoted(self, prepare: Prepare, store: Store) -> None:
        broken = {
            '{"prompt": "a", "completion"': "found no valid JSON",
            '{"prompt": "SECRET"}': "field completion: found nothing, expected a non-empty string",
            '{"prompt": "a", "completion": 4}': "field completion: found a number, expected a non-empty string",
            '{"prompt": "SECRET", "completion": " "}': "field completion: found an empty string",
            "[1, 2]": "found a list, expected one JSON object per line",
        }
        found = prepare([*answers(2), *broken])
        message = found.failure(Reason.DATA_INVALID)
        assert "5 of 7 rows are invalid" in message
        for number, words in enumerate(broken.values(), start=3):
            finding = message.split(f"data/train.jsonl line {number}", 1)[1].split(";")[0]
            assert words in finding
        assert "SECRET" not in found.log
        [listed] = store.list("out/")
        assert b"SECRET" not in store.get(listed)

    def test_roles_out_of_order(self, prepare: Prepare) -> None:
        broken = {
            ("user", "user", "assistant"): "messages[1].role: found user, expected assistant",
            ("user", "system", "assistant"): "messages[1].role: found system, expected assistant",
            ("assistant",): "messages[0].role: found assistant, expected system or user",
            ("system", "user"): "messages[1].role: found user, expected assistant: the last message is the answer",
            ("user", "narrator"): "messages[1].role: found a string of 8 characters",
        }
        rows = [{"messages": [{"role": role, "content": "x"} for role in roles]} for roles in broken]
        message = prepare([CHAT, *rows]).failure(Reason.DATA_INVALID)
        assert [words for words in broken.values() if words not in message] == []

    def test_answers_outside_the_labels(self, prepare: Prepare, bucket: str) -> None:
        rows = [{"prompt": f"{i}?", "completion": " red" if i % 2 else " blue"} for i in range(8)]
        labels = {"labels": ["red", "blue"]}
        split = dataset(bucket, split={"test": 0.25})
        prepare(rows, dataset=split, evaluation=labels).prepared  # noqa: B018
        message = prepare([*rows, {"prompt": "9?", "completion": "green"}], dataset=split, evaluation=labels).failure(
            Reason.DATA_INVALID
        )
        assert (
            "line 9, field completion: found a string of 5 characters, expected one of the 2 evaluation.labels"
            in message
        )

    def test_invalid_rows_can_be_dropped(self, prepare: Prepare, bucket: str) -> None:
        found = prepare([*answers(3), "{"], dataset=dataset(bucket, quality={"onInvalidRow": "Drop"}))
        assert found.prepared.dataset.invalid == 1
        assert found.prepared.dataset.splits[0].rows == 3

    def test_the_message_has_the_first_findings_and_the_output_all(self, prepare: Prepare, store: Store) -> None:
        found = prepare([*answers(1), *["{"] * 300, *[{"prompt": "a", "completion": ""}] * 200])
        message, listed = found.failure(Reason.DATA_INVALID), "out/team-a/job/uid-1/invalid-rows.jsonl"
        assert "500 of 501 rows are invalid" in message
        assert f"and 490 more, all in {store.uri(listed)}" in message
        assert len(found.message) <= MAX_SUMMARY_BYTES
        rows = [InvalidRow.model_validate_json(line) for line in store.get(listed).splitlines()]
        assert [row.place for row in rows] == [f"line {place}" for place in range(2, 502)]
        assert (rows[-1].field, rows[-1].found) == ("completion", "an empty string")

    def test_the_report_is_a_page_before_anything_is_trained(self, prepare: Prepare, store: Store, bucket: str) -> None:
        rows = [*answers(3), *[{"prompt": "a", "completion": ""}] * 2]
        prepare(rows, dataset=dataset(bucket, quality={"onInvalidRow": "Drop"})).prepared  # noqa: B018
        report = DataReport.model_validate_json(store.get("out/team-a/job/uid-1/data/report.json"))
        assert [(kind.name, kind.rows) for kind in report.invalid_kinds] == [("completion: an empty string", 2)]
        assert report.near_duplicates is None, "nobody looked for them"
        page = store.get("out/team-a/job/uid-1/data-report.html").decode()
        assert "<h1>team-a/job: data</h1>" in page
        for shown in ("completion: an empty string", "Tokens of an answer (train)", "5 rows read"):
            assert shown in page

    def test_an_empty_file(self, prepare: Prepare) -> None:
        assert "no rows" in prepare(b"\n").failure(Reason.DATA_INVALID)

    def test_fields_of_no_format(self, prepare: Prepare) -> None:
        message = prepare([{"question": "a", "answer": "b"}]).failure(Reason.DATA_INVALID)
        assert "answer, question" in message
        assert "dataset.columns" in message


class TestMethodAndFormat:
    def test_raw_text_does_not_fit_sft(self, prepare: Prepare) -> None:
        assert "use method cpt" in prepare(texts()).failure(Reason.DATA_INVALID)

    def test_answers_do_not_fit_cpt(self, prepare: Prepare) -> None:
        message = prepare(answers(), method={"cpt": {}}).failure(Reason.DATA_INVALID)
        assert "use method sft, grpo or ppo" in message
        assert "PromptCompletion" in message
        assert "use method sft" in message

    def test_messages_need_a_chat_template(self, prepare: Prepare, store: Store) -> None:
        store.delete(["base/chat_template.jinja"])
        assert "chat template" in prepare([CHAT]).failure(Reason.CONFIG_INVALID)

    def test_a_chat_template_must_mark_the_answers(self, prepare: Prepare, store: Store) -> None:
        plain = CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        store.put("base/chat_template.jinja", plain.encode())
        assert "assistantOnlyLoss" in prepare([CHAT]).failure(Reason.CONFIG_INVALID)
        prepare([CHAT], method={"sft": {"assistantOnlyLoss": False}}).prepared  # noqa: B018

    def test_a_gate_needs_held_out_rows(self, prepare: Prepare) -> None:
        message = prepare(answers(), evaluation={"gate": [{"metric": "Loss", "max": 1}]}).failure(Reason.CONFIG_INVALID)
        assert "dataset.split.test" in message


class TestQuality:
    LONG = " ".join(f"word{number}" for number in range(40))

    def report(self, store: Store) -> DataReport:
        return DataReport.model_validate_json(store.get("out/team-a/job/uid-1/data/report.json"))

    def test_near_copies_contamination_and_length(self, prepare: Prepare, store: Store, bucket: str) -> None:
        rows = [
            *answers(8),
            {"prompt": f"{self.LONG}?", "completion": " a"},
            {"prompt": f"{self.LONG}!", "completion": " a"},
            {"prompt": f"So, {self.LONG} and more of it, of which nobody knew anything at all?", "completion": " b"},
            {"prompt": "mail ada@example.org", "completion": " I cannot help with that."},
        ]
        store.put("suite.jsonl", jsonl([{"question": self.LONG, "id": 1}]))
        suites = [{"name": "exam", "uri": f"{bucket}/suite.jsonl", "secretRef": {"name": "s3"}}]
        quality = {"deduplicate": "Near", "suites": suites}
        found = prepare(rows, dataset=dataset(bucket, quality=quality)).prepared.dataset
        assert (found.near_duplicates, found.overlapping, found.contaminated, found.sensitive) == (1, 2, 0, 1)
        report = self.report(store)
        assert [(each.name, each.rows) for each in report.overlaps] == [("exam", 2)]
        assert [(source.rows, source.name) for source in report.sources] == [(12, f"{bucket}/data/train.jsonl")]
        (split,) = report.splits
        assert split.rows == 11
        assert split.refused_answers == 1
        assert [(each.name, each.rows) for each in split.personal_data] == [("e-mail address", 1)]
        assert sum(bar.rows for bar in split.lengths) == 11
        strict = {**quality, "decontaminate": True, "minTokens": 30}
        found = prepare(None, dataset=dataset(bucket, quality=strict)).prepared.dataset
        assert (found.contaminated, found.splits[0].rows + found.out_of_range) == (2, 9)
        assert found.out_of_range > 0
        assert len(rows_of(store, "train")) == found.splits[0].rows

    def test_training_rows_that_contain_a_test_row(self, prepare: Prepare, store: Store, bucket: str) -> None:
        store.put("data/test.jsonl", jsonl([{"prompt": self.LONG, "completion": " a"}]))
        held_out = {"uri": f"{bucket}/data/test.jsonl", "secretRef": {"name": "s3"}}
        rows = [*answers(4), {"prompt": f"Once more: {self.LONG} - and what then?", "completion": " b"}]
        clean = dataset(bucket, test=held_out, quality={"decontaminate": True})
        found = prepare(rows, dataset=clean).prepared.dataset
        assert found.contaminated == 1
        assert rows_of(store, "train") == answers(4)

    def test_all_rows_dropped(self, prepare: Prepare, bucket: str) -> None:
        drop = dataset(bucket, quality={"onInvalidRow": "Drop"})
        rows = [{"prompt": "a", "completion": ""}] * 3
        message = prepare([answers(1)[0], *rows][1:], dataset=drop).failure(Reason.DATA_INVALID)
        assert "no rows are left for train: of 3 rows read 3 are invalid" in message
        message = prepare(answers(), dataset=dataset(bucket, quality={"minTokens": 500})).failure(Reason.DATA_INVALID)
        assert "no rows are left for train: of 20 rows 20 have fewer tokens" in message

    def test_the_first_rows_are_shown_token_by_token(self, prepare: Prepare, store: Store) -> None:
        found = prepare([CHAT])
        shown = store.get("out/team-a/job/uid-1/data/preview.txt").decode()
        see, learn = (
            next(line for line in shown.splitlines() if line.split()[:1] == [word]) for word in ("see", "learn")
        )
        assert "hello" in see.replace("|", "")
        assert learn.replace("|", "").endswith("good day<|im_end|>".replace("|", ""))
        assert "good day" not in found.log

    def test_tools_need_a_template_that_writes_them(self, prepare: Prepare) -> None:
        tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
        message = prepare([{**CHAT, "tools": [tool]}]).failure(Reason.CONFIG_INVALID)
        assert "look_up" in message
        assert "chat template does not write them" in message


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


class TestBaseModel:
    def test_a_missing_model(self, prepare: Prepare, bucket: str) -> None:
        model = {"uri": f"{bucket}/nowhere", "secretRef": {"name": "s3"}}
        assert f"{bucket}/nowhere" in prepare(answers(), baseModel=model).failure(Reason.MODEL_NOT_FOUND)

    @pytest.mark.parametrize(
        ("change", "reason", "words"),
        [
            pytest.param({"model_type": "unheard"}, Reason.MODEL_NOT_FOUND, "unheard", id="an unknown architecture"),
            pytest.param({"model_type": "t5"}, Reason.MODEL_NOT_FOUND, "causal language model", id="no causal model"),
            pytest.param({"auto_map": {"A": "b.C"}}, Reason.CONFIG_INVALID, "never run", id="code of its own"),
            pytest.param({"vocab_size": 17}, Reason.MODEL_NOT_FOUND, "vocab_size 17", id="too small a vocabulary"),
        ],
    )
    def test_a_config_that_cannot_be_trained(
        self, prepare: Prepare, store: Store, change: dict[str, Any], reason: Reason, words: str
    ) -> None:
        config = json.loads(store.get("base/config.json"))
        if "model_type" in change:
            config.pop("architectures", None)
        store.put("base/config.json", json.dumps(config | change).encode())
        assert words in prepare(answers()).failure(reason)

    def test_another_model_than_the_stated_digest(self, prepare: Prepare, store: Store, base: str) -> None:
        model = {"uri": base, "secretRef": {"name": "s3"}, "digest": f"sha256:{0:064}"}
        assert "has no manifest.json" in prepare(answers(), baseModel=model).failure(Reason.MODEL_NOT_FOUND)
        store.put("base/manifest.json", b'{"kind": "Model", "files": []}')
        message = prepare(None, baseModel=model).failure(Reason.ARTIFACT_CORRUPT)
        assert f"expected sha256:{0:064}" in message

    def test_pickles_are_not_weights(self, prepare: Prepare, store: Store) -> None:
        store.delete(["base/model.safetensors"])
        store.put("base/pytorch_model.bin", b"pickle")
        assert "found pytorch_model.bin" in prepare(answers()).failure(Reason.MODEL_NOT_FOUND)

    def test_python_files_are_refused(self, prepare: Prepare, store: Store) -> None:
        store.put("base/modeling.py", b"")
        assert "modeling.py" in prepare(answers()).failure(Reason.CONFIG_INVALID)

    def test_longer_than_the_model_can(self, prepare: Prepare) -> None:
        message = prepare(answers(), training={"maxLength": 4096}).failure(Reason.CONFIG_INVALID)
        assert "4096" in message
        assert "256" in message


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
