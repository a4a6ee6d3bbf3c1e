"""``finetune_trainer prepare`` as a process on a job with a tiny base model: rows and job.json in, its last words out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.artifacts import Resolved
from finetune_api.pods import Summary
from finetune_api.reasons import EXIT_CODES, Reason
from finetune_storage import Store
from json_lines import jsonl
from stage_process import ForkedProgram

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


@dataclass
class Prepare:
    """Runs the stage on rows (or the bytes of a file); keywords replace members of the spec."""

    bucket: str
    base: str
    store: Store
    folder: Path

    def __call__(self, rows: list[Any] | bytes | None, **spec: Any) -> Run:
        if rows is not None:
            self.store.put("data/train.jsonl", rows if isinstance(rows, bytes) else jsonl(rows))
        flags, log = arguments(job(self.bucket, self.base, **spec), self.folder)
        process = ForkedProgram("finetune_trainer", flags)
        said, _ = process.communicate(timeout=120)
        message = log.read_bytes()
        summary = Summary.model_validate_json(message)
        assert process.returncode is not None
        return Run(process.returncode, summary, message, said, self.folder / "work")


def job(bucket: str, base: str, **spec: Any) -> dict[str, Any]:
    """job.json; keywords replace members of the spec, None leaves one out."""
    default: dict[str, Any] = {
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


def dataset(bucket: str, **members: Any) -> dict[str, Any]:
    return {"train": {"uri": f"{bucket}/data/train.jsonl", "secretRef": {"name": "s3"}}, **members}


def resolved_of(store: Store) -> Resolved:
    return Resolved.model_validate_json(store.get("out/team-a/job/uid-1/resolved.json"))


def rows_of(store: Store, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.get(f"out/team-a/job/uid-1/data/{split}.jsonl").splitlines()]
