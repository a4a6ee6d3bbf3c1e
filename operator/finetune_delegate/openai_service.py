"""Tuning at a service with OpenAI's API, through the ``openai`` client; with :mod:`finetune_delegate.openai_shapes` the only module that imports it.

The client's own retries are off: a repeated creation would be a second paid job, and a wait must be told to the user.
"""

import contextlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai

from finetune_api.artifacts import InPlace
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import Checkpoint
from finetune_api.v1alpha1.provider import OpenAIBackend, ProviderModel
from finetune_delegate.openai_shapes import method_of, timestamp, view_of
from finetune_delegate.patience import RENEWAL_SECONDS, Passing, patiently, retry_after
from finetune_delegate.provider import Logged, Task, Unsure, View
from finetune_delegate.recorded import Recorder
from finetune_stage.chats import Chat
from finetune_stage.openai_rows import messages_of
from finetune_storage.credentials import concealed, read_secret

T = TypeVar("T")

USUAL_URL = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
UID = "finetune-uid"
TIMEOUT_SECONDS = 60.0


class OpenAIService:
    """One FineTuneJob's dealings with the service."""

    def __init__(self, task: Task, backend: OpenAIBackend) -> None:
        self._task = task
        self._backend = backend

    @cached_property
    def _client(self) -> openai.OpenAI:
        return self._connect(self._task.places.secret(self._backend.secret_ref))

    def _connect(self, folder: Path | None, transport: httpx2.BaseTransport | None = None) -> openai.OpenAI:
        values = read_secret(folder, (KEY,), self._task.places.secret_wait) if folder else {KEY: "none"}
        verify = str(folder / "CA_BUNDLE") if folder and values.get("CA_BUNDLE") else True
        return openai.OpenAI(
            api_key=values[KEY],
            organization=values.get("OPENAI_ORG_ID") or None,
            project=values.get("OPENAI_PROJECT_ID") or None,
            base_url=self._backend.base_url or USUAL_URL,
            max_retries=0,
            timeout=TIMEOUT_SECONDS,
            http_client=httpx2.Client(verify=verify, transport=transport, timeout=TIMEOUT_SECONDS),
        )

    def upload(self, split: str, path: Path) -> str:
        """A file named with the job's uid; an earlier attempt's of the same size is used in place."""
        name, size = self._file_name(split), path.stat().st_size
        for file in self._ask(lambda: list(self._client.files.list(purpose="fine-tune")), "files"):
            if file.filename == name and file.bytes == size:
                return file.id
        data = path.read_bytes()
        done = self._ask(lambda: self._client.files.create(file=(name, data), purpose="fine-tune"), f"upload of {name}")
        return done.id

    def unchanged(self, file: InPlace) -> str:
        """Rows always go through the Files API."""
        raise Failure(Reason.CONFIG_INVALID, f"{file.uri}: backend.openai cannot use rows in place")

    def _file_name(self, split: str) -> str:
        return f"finetune-{self._task.uid}-{split}.jsonl"

    def request(self, files: Mapping[str, str]) -> str:
        """POST /fine_tuning/jobs, as the client writes it."""
        recorder = Recorder()
        with self._connect(None, recorder.transport()) as client, contextlib.suppress(openai.APIError):
            client.fine_tuning.jobs.create(**self._body(files))
        return recorder.text()

    def _body(self, files: Mapping[str, str]) -> dict[str, Any]:
        config, backend = self._task.config, self._backend
        body = {
            "model": self._task.base,
            "training_file": files["train"],
            "validation_file": files.get("validation"),
            "suffix": backend.suffix or config.name,
            "seed": config.spec.training.seed if config.spec.training else None,
            "method": method_of(config.spec, backend),
            "integrations": [{"type": "wandb", "wandb": backend.wandb.wire()}] if backend.wandb else None,
            "metadata": {
                **(backend.metadata or {}),
                UID: config.uid,
                "finetune-job": config.name,
                "finetune-namespace": config.namespace,
            },
        }
        return {key: value for key, value in body.items() if value is not None}

    def find(self) -> list[View]:
        """By metadata, or by the training file's name where a service keeps no metadata."""
        names = self._file_name("train")
        files = {
            file.id
            for file in self._ask(lambda: list(self._client.files.list(purpose="fine-tune")), "files")
            if file.filename == names
        }
        jobs = self._ask(lambda: list(self._client.fine_tuning.jobs.list(limit=100)), "tuning jobs")
        own = [job for job in jobs if (job.metadata or {}).get(UID) == self._task.uid or job.training_file in files]
        return sorted(map(view_of, own), key=lambda view: (view.created, view.job))

    def submit(self, files: Mapping[str, str]) -> View:
        """One request."""
        try:
            return view_of(self._client.fine_tuning.jobs.create(**self._body(files)))
        except openai.APIConnectionError as error:  # time-outs among them
            raise Unsure(str(error)) from error
        except openai.InternalServerError as error:
            raise Unsure(f"{error.status_code} {self._said(error)}") from error
        except openai.OpenAIError as error:
            raise self._verdict(error, f"tuning of {self._task.base}") from None

    def look(self, job: str) -> View:
        """With its checkpoints."""
        found = self._ask(lambda: self._client.fine_tuning.jobs.retrieve(job), job)
        kept = self._ask(lambda: list(self._client.fine_tuning.jobs.checkpoints.list(job, limit=16)), job)
        checkpoints = [
            Checkpoint(
                step=each.step_number,
                uri=f"openai://{each.fine_tuned_model_checkpoint}",
                created_at=timestamp(each.created_at),
            )
            for each in kept
        ]
        return view_of(found, tuple(sorted(checkpoints, key=lambda each: each.step)[-16:]))

    def logged(self, job: str, after: str | None) -> list[Logged]:
        """From its events, which come newest first."""

        def read() -> list[Logged]:
            new = []
            for event in self._client.fine_tuning.jobs.list_events(job, limit=100):
                if event.id == after:
                    break
                data = event.data if isinstance(event.data, dict) else {}
                if event.type == "metrics" and isinstance(data.get("step"), int):
                    figures = {k: float(v) for k, v in data.items() if isinstance(v, int | float) and "step" not in k}
                    total = data.get("total_steps")
                    new.append(
                        Logged(
                            event.id,
                            data["step"],
                            timestamp(event.created_at),
                            figures,
                            total if isinstance(total, int) else None,
                        )
                    )
            return new[::-1]

        return self._ask(read, job)

    def cancel(self, job: str) -> None:
        """A job that has ended cannot be cancelled, which is what was wanted."""

        def ask() -> None:
            try:
                self._client.fine_tuning.jobs.cancel(job)
            except (openai.BadRequestError, openai.ConflictError):
                if view_of(self._client.fine_tuning.jobs.retrieve(job)).end is None:
                    raise

        self._ask(ask, job)

    def answer(self, model: str, chat: Chat, max_tokens: int) -> str:
        """Greedy."""
        # OpenAI's newer models take only the newer name, other services often only the older one.
        limit = "max_tokens" if self._backend.base_url else "max_completion_tokens"
        asked: dict[str, Any] = {"model": model, "messages": messages_of(chat), "temperature": 0, limit: max_tokens}
        done = self._ask(lambda: self._client.chat.completions.create(**asked), f"an answer of {model}")
        return done.choices[0].message.content or ""

    def made(self, view: View) -> ProviderModel:
        """The model's name."""
        return ProviderModel(
            kind="OpenAI",
            model=str(view.model),
            base_model=self._task.base,
            base_url=self._backend.base_url,
            job=view.job,
        )

    def _ask(self, action: Callable[[], T], what: str) -> T:
        def once() -> T:
            try:
                return action()
            except openai.OpenAIError as error:
                raise self._verdict(error, what) from None  # the library's error may quote a request

        return patiently(once, what, self._task.patience)

    def _verdict(self, error: openai.OpenAIError, what: str) -> Failure | Passing:
        """What an error means."""
        if isinstance(error, openai.APIConnectionError):
            return Passing(str(error))
        if not isinstance(error, openai.APIStatusError):
            return Failure(Reason.BACKEND_ERROR, f"{what}: {error}")
        said = self._said(error)
        if error.status_code == 429 and error.code == "insufficient_quota":
            return Failure(Reason.BACKEND_ERROR, f"{what}: the account's quota is used up: {said}")
        if error.status_code in (408, 409, 429) or error.status_code >= 500:
            return Passing(f"{error.status_code} {said}", retry_after(error.response.headers))
        if error.status_code in (401, 403):
            secret = self._backend.secret_ref.name
            refused = Failure(
                Reason.ACCESS_DENIED, f"{what}: the provider refused the key {KEY} of Secret {secret!r}: {said}"
            )
            if error.status_code == 403:
                return refused
            self.__dict__.pop("_client", None)  # the key may have been renewed: it is read again
            return Passing(f"401 {said}", end=refused, at_most=RENEWAL_SECONDS)
        if error.code == "model_not_found" or getattr(error, "param", None) == "model":
            return Failure(Reason.MODEL_NOT_FOUND, f"baseModel openai://{self._task.base}: {said}")
        return Failure(Reason.BACKEND_ERROR, f"{what}: the provider answered {error.status_code}: {said}")

    def _said(self, error: openai.APIStatusError) -> str:
        body = error.body
        message = body.get("message") if isinstance(body, dict) else None
        return concealed(str(message or error.message), self._client.api_key)[:600]
