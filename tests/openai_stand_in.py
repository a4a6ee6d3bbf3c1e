"""OpenAI's Files, Fine-tuning and Chat API as documented: paths, fields, error bodies, cursor pagination, states.

A tuning job takes ``polls`` looks to run through its states. The tuned model answers what it was trained on; the base does not.
"""

import json
import re
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

from stand_in import Answer, Json, Request, StandIn

KEY = "sk-test"
BASE = "gpt-4o-mini-2024-07-18"
RUN = ("validating_files", "queued", "running", "running", "succeeded")
FIRST_DAY = 1_790_000_000
JOBS = "/v1/fine_tuning/jobs"
ONE = f"{JOBS}/[^/]+"
"""Paths of faults."""


def error(
    status: int, message: str, code: str | None = None, param: str | None = None, kind: str = "invalid_request_error"
) -> Answer:
    """An error body."""
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


class OpenAI(StandIn):
    """One organisation's files and jobs."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.key = KEY
        self.files: dict[str, Json] = {}
        self.contents: dict[str, bytes] = {}
        self.jobs: dict[str, Json] = {}
        self.course: dict[str, list[str]] = {}
        self.run = RUN
        self.hidden: set[str] = set()
        """Jobs a lagging list does not show yet."""
        self.lag = 0
        """Lists that do not show the newest job."""
        self.end_error: Json | None = None
        self.page = 2
        """Entries of a page, whatever is asked for: clients must follow the cursor."""
        super().__init__(
            {
                ("POST", "/v1/files"): self.upload,
                ("GET", "/v1/files"): lambda request: self.listed(request, list(self.files.values())),
                ("POST", "/v1/fine_tuning/jobs"): self.create,
                ("GET", "/v1/fine_tuning/jobs"): self.list_jobs,
                ("GET", "/v1/fine_tuning/jobs/([^/]+)"): self.retrieve,
                ("POST", "/v1/fine_tuning/jobs/([^/]+)/cancel"): self.cancel,
                ("GET", "/v1/fine_tuning/jobs/([^/]+)/events"): self.events,
                ("GET", "/v1/fine_tuning/jobs/([^/]+)/checkpoints"): self.checkpoints,
                ("POST", "/v1/chat/completions"): self.chat,
            },
            host,
            port,
        )
        self.url += "/v1"

    def answer(self, routes: Any, request: Request) -> Answer:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given != self.key:
            return error(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
        return super().answer(routes, request)

    def listed(self, request: Request, newest_first: list[Json]) -> Answer:
        """A page after a cursor."""
        names = [each["id"] for each in newest_first]
        start = names.index(request.query["after"]) + 1 if "after" in request.query else 0
        page = newest_first[start : start + min(self.page, int(request.query.get("limit", 20)))]
        more = start + len(page) < len(newest_first)
        return 200, {
            "object": "list", "data": page, "has_more": more,
            "first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None,
        }  # fmt: skip

    def upload(self, request: Request) -> Answer:
        parsed = BytesParser(policy=HTTP).parsebytes(
            b"Content-Type: " + request.headers["Content-Type"].encode() + b"\r\n\r\n" + request.data
        )
        parts = {part.get_param("name", header="content-disposition"): part for part in parsed.iter_parts()}
        data = parts["file"].get_payload(decode=True)
        for number, line in enumerate(data.splitlines(), 1):
            row = json.loads(line)
            assert "messages" in row or "preferred_output" in row, f"line {number}"
        name = f"file-{len(self.files) + 1}"
        self.contents[name] = data
        self.files[name] = {
            "id": name, "object": "file", "bytes": len(data), "created_at": FIRST_DAY, "status": "processed",
            "filename": parts["file"].get_filename(), "purpose": parts["purpose"].get_payload(decode=True).decode().strip(),
        }  # fmt: skip
        return 200, self.files[name]

    def create(self, request: Request) -> Answer:
        asked = request.json
        if not asked["model"].startswith("gpt-"):
            message = f"Model {asked['model']} is not available for fine-tuning or does not exist."
            return error(400, message, "model_not_available", "model")
        if asked["training_file"] not in self.files:
            return error(400, "Invalid training_file", "invalid_value", "training_file")
        name = f"ftjob-{len(self.jobs) + 1}"
        method = asked.get("method") or {"type": "supervised"}
        self.jobs[name] = {
            "id": name, "object": "fine_tuning.job", "created_at": FIRST_DAY + len(self.jobs), "model": asked["model"],
            "fine_tuned_model": None, "finished_at": None, "error": None, "organization_id": "org-1", "result_files": [],
            "seed": asked.get("seed", 7), "status": "queued", "trained_tokens": None, "estimated_finish": None,
            "training_file": asked["training_file"], "validation_file": asked.get("validation_file"),
            "hyperparameters": {"n_epochs": "auto"}, "method": method, "metadata": asked.get("metadata"),
            "suffix": asked.get("suffix"),
        }  # fmt: skip
        self.course[name] = list(self.run)
        if self.lag:
            self.hidden.add(name)
        return 200, self.jobs[name]

    def list_jobs(self, request: Request) -> Answer:
        shown = [job for name, job in self.jobs.items() if name not in self.hidden]
        if self.lag:
            self.lag -= 1
            if not self.lag:
                self.hidden.clear()
        return self.listed(request, shown[::-1])

    def retrieve(self, request: Request, name: str) -> Answer:
        job = self.jobs.get(name)
        if job is None:
            return error(404, f"Could not find fine tune: {name}", "fine_tune_not_found", "fine_tune_id")
        if self.course[name]:
            job["status"] = self.course[name].pop(0)
        if job["status"] == "succeeded":
            job |= {"fine_tuned_model": f"ft:{job['model']}:org:{job['suffix']}:1", "trained_tokens": 4321}
        if job["status"] == "failed":
            job["error"] = self.end_error or {"code": "server_error", "message": "The job failed.", "param": None}
        return 200, job

    def cancel(self, request: Request, name: str) -> Answer:
        job = self.jobs[name]
        if job["status"] in ("succeeded", "failed", "cancelled"):
            return error(400, f"Job {name} has already completed", "invalid_state")
        self.course[name] = []
        job["status"] = "cancelled"
        return 200, job

    def events(self, request: Request, name: str) -> Answer:
        steps = {"running": 5, "succeeded": 10}.get(self.jobs[name]["status"], 0)
        events = [
            {
                "object": "fine_tuning.job.event", "id": f"ftevent-{name}-{step}", "created_at": FIRST_DAY + step,
                "level": "info", "message": f"Step {step}/10: training loss={1 / step:.2f}", "type": "metrics",
                "data": {"step": step, "total_steps": 10, "train_loss": 1 / step, "train_mean_token_accuracy": 0.5},
            }
            for step in range(1, steps + 1)
        ]  # fmt: skip
        created = {
            "object": "fine_tuning.job.event", "id": f"ftevent-{name}-0", "created_at": FIRST_DAY, "level": "info",
            "message": f"Created fine-tuning job: {name}", "type": "message", "data": {},
        }  # fmt: skip
        return self.listed(request, [*events[::-1], created])

    def checkpoints(self, request: Request, name: str) -> Answer:
        done = self.jobs[name]["status"] == "succeeded"
        found = [
            {
                "object": "fine_tuning.job.checkpoint", "id": f"ftckpt-{step}", "created_at": FIRST_DAY + step,
                "fine_tuned_model_checkpoint": f"ft:{BASE}:org::1:ckpt-step-{step}", "fine_tuning_job_id": name,
                "metrics": {"step": step, "train_loss": 1 / step}, "step_number": step,
            }
            for step in (10, 5)
        ]  # fmt: skip
        return self.listed(request, found if done else [])

    def chat(self, request: Request) -> Answer:
        asked = request.json
        question = asked["messages"][-1]["content"]
        learned = re.search("red|green|blue", question)
        tuned = asked["model"].startswith("ft:")
        answer = learned[0] if learned and tuned else "I do not know."
        message = {"role": "assistant", "content": answer}
        return 200, {
            "id": "chatcmpl-1", "object": "chat.completion", "created": FIRST_DAY, "model": asked["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }  # fmt: skip
