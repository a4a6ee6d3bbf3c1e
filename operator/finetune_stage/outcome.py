"""How a stage begins and ends: where its files are, its termination message, its exit code."""

import json
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.model import MAX_MESSAGE
from finetune_api.pods import (
    CONFIG_FILE,
    MAX_SUMMARY_BYTES,
    SECRET_WAIT_SECONDS,
    SECRETS_DIR,
    SOURCES_DIR,
    TERMINATION_LOG,
    WORK_DIR,
    Stage,
    Summary,
)
from finetune_api.reasons import EXIT_CODES, Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import JobError
from finetune_api.v1alpha1.references import SecretRef
from finetune_storage import Store, open_store

SHORTER = (2048, 1024, 512, 256, 128, 64, 32, 16)
"""Characters left of each sentence, tried in turn until the message fits."""
QUOTED_CHARACTERS = 200


@dataclass(frozen=True)
class Places:
    """Where a stage finds its files; the defaults are the pod contract's."""

    config: Path = Path(CONFIG_FILE)
    secrets_dir: Path = Path(SECRETS_DIR)
    sources_dir: Path = Path(SOURCES_DIR)
    work_dir: Path = Path(WORK_DIR)
    termination_log: Path = Path(TERMINATION_LOG)
    secret_wait: float = SECRET_WAIT_SECONDS

    def secret(self, ref: SecretRef | None) -> Path | None:
        """Folder of a mounted Secret."""
        return self.secrets_dir / ref.name if ref else None

    def store(self, uri: str, ref: SecretRef | None, missing: Reason) -> Store:
        """The store at an address, with the credentials of a Secret."""
        return open_store(uri, self.secret(ref), missing=missing, secret_wait=self.secret_wait)


def failed(stage: Stage, error: Exception) -> Summary:
    """The summary of a stage that ended with an error; what is not a Failure is a bug, and its traceback goes to stderr."""
    if isinstance(error, Failure):
        return Summary(stage=stage, error=JobError(code=error.reason, message=_shortened(error.message, MAX_MESSAGE)))
    traceback.print_exception(error, file=sys.stderr)
    if (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    ):  # torch's; not imported for its name
        return Summary(
            stage=stage, error=JobError(code=Reason.OUT_OF_MEMORY, message=f"out of memory in stage {stage}")
        )
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = (str(error).splitlines() or [""])[0][:QUOTED_CHARACTERS]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    message = f"a bug: {type(error).__name__} in {where}: {said}; the pod's log has the traceback"
    return Summary(stage=stage, error=JobError(code=Reason.INTERNAL_ERROR, message=message))


def exit_code(summary: Summary) -> int:
    """0 if and only if the stage is done."""
    return EXIT_CODES[Reason(summary.error.code)] if summary.error else 0


def termination_message(summary: Summary) -> bytes:
    """The summary as JSON of at most MAX_SUMMARY_BYTES: sentences are cut, and at last choices (resolved.json has them) or
    a diagnosis (evaluation.json has it) left out."""
    data = summary.wire()
    if len(_json(data)) <= MAX_SUMMARY_BYTES:
        return _json(data)
    for characters in SHORTER:
        short: dict[str, Any] = _cut(data, characters)
        if len(_json(short)) <= MAX_SUMMARY_BYTES:
            return _json(short)
    more = _left_out(short)
    while len(_json(short)) > MAX_SUMMARY_BYTES and more:
        more.pop()
    return _json(short)


def _left_out(data: dict[str, Any]) -> list[Any]:
    """What object storage has anyway: a plan's choices, an evaluation's diagnosis."""
    found: list[Any] = (
        data["prepared"]["plan"]["choices"]
        if "prepared" in data
        else data.get("trained", {}).get("evaluation", {}).get("diagnosis") or []
    )
    return found


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _cut(value: Any, characters: int, field: str = "") -> Any:
    """The value with its sentences (message, reason, skippedBatch, trackingError) cut; names, addresses and digests stay whole."""
    if isinstance(value, dict):
        return {key: _cut(item, characters, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item, characters) for item in value]
    if field in ("message", "reason", "skippedBatch", "trackingError"):
        return _shortened(value, characters)
    return value


def _shortened(text: str, characters: int) -> str:
    """At most so many characters of it; where some are left out, an ellipsis is the last."""
    return text if len(text) <= characters else text[: characters - 1] + "…"
