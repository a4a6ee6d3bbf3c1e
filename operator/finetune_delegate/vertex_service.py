"""Tuning at Vertex AI, through the ``google-genai`` client, with rows in Cloud Storage; the only module that imports them.

The client's own retries are off: a repeated creation would be a second paid job, and a wait must be told to the user.
"""

import contextlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import requests
from google.api_core import exceptions as storage_errors
from google.auth import exceptions as auth_errors
from google.cloud import storage
from google.genai import Client, errors, types
from google.oauth2 import credentials as user

from finetune_api.artifacts import InPlace
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.provider import ProviderModel, VertexBackend
from finetune_delegate.patience import RENEWAL_SECONDS, Passing, patiently, retry_after
from finetune_delegate.provider import Logged, Task, Unsure, View
from finetune_delegate.recorded import Recorder
from finetune_delegate.vertex_config import UID, tuning_config
from finetune_delegate.vertex_states import view_of
from finetune_stage.chats import Chat
from finetune_stage.vertex_rows import contents_of
from finetune_storage import sha256_of
from finetune_storage.google_cloud import cloud_client
from finetune_storage.google_identity import google_identity

T = TypeVar("T")

TIMEOUT_SECONDS = 60.0
CONNECTION = (httpx2.TransportError, requests.RequestException, auth_errors.TransportError, ConnectionError)


class VertexService:
    """One FineTuneJob's dealings with Vertex AI."""

    def __init__(self, task: Task, backend: VertexBackend) -> None:
        self._task = task
        self._backend = backend

    @cached_property
    def _credentials(self) -> Any:
        """Those of the Secret alone, or of the pod's own identity."""
        places = self._task.places
        return google_identity(places.secret(self._backend.secret_ref), "backend.vertex.secretRef", places.secret_wait)

    @cached_property
    def _client(self) -> Client:
        return self._connect(self._credentials)

    def _connect(self, credentials: Any, transport: httpx2.BaseTransport | None = None) -> Client:
        return Client(
            vertexai=True,
            project=self._backend.project,
            location=self._backend.location,
            credentials=credentials,
            http_options=types.HttpOptions(
                base_url=self._backend.base_url,
                timeout=round(TIMEOUT_SECONDS * 1000),
                retry_options=types.HttpRetryOptions(attempts=1),
                client_args={"transport": transport} if transport else None,
            ),
        )

    def upload(self, split: str, path: Path) -> str:
        """An object named by its contents; one that lies there already is used in place."""
        config = self._task.config
        bucket, _, folder = self._backend.staging_uri.removeprefix("gs://").partition("/")
        name = f"{split}-{sha256_of(path)[:16]}.jsonl"
        key = "/".join(filter(None, (folder.strip("/"), config.namespace, config.name, config.uid, name)))

        def send() -> str:
            blob = self._storage().bucket(bucket).blob(key)
            if not blob.exists(timeout=TIMEOUT_SECONDS, retry=None):
                blob.upload_from_filename(
                    str(path), content_type="application/jsonl", timeout=TIMEOUT_SECONDS, retry=None
                )
            return f"gs://{bucket}/{key}"

        return self._ask(send, f"gs://{bucket}/{key}")

    def unchanged(self, file: InPlace) -> str:
        """By the object's generation."""
        bucket, _, key = file.uri.removeprefix("gs://").partition("/")

        def look() -> str:
            blob = self._storage().bucket(bucket).blob(key)
            blob.reload(timeout=TIMEOUT_SECONDS, retry=None)
            if blob.generation != file.generation:
                raise Failure(
                    Reason.DATA_INVALID,
                    f"{file.uri} was written anew since its rows were checked (generation {blob.generation}, "
                    f"checked was {file.generation}): leave it alone while a job uses it, and make the job anew",
                )
            return file.uri

        return self._ask(look, file.uri)

    def _storage(self) -> storage.Client:
        return cloud_client(self._credentials, self._backend.project, self._backend.storage_url)

    def request(self, files: Mapping[str, str]) -> str:
        """POST tuningJobs, as the client writes it."""
        recorder = Recorder()
        client = self._connect(user.Credentials(token="dry-run"), recorder.transport())
        with contextlib.suppress(errors.APIError):
            self._tune(client, files)
        return recorder.text()

    def _tune(self, client: Client, files: Mapping[str, str]) -> types.TuningJob:
        validation = files.get("validation")
        job: types.TuningJob = client.tunings.tune(
            base_model=self._task.base,
            training_dataset=types.TuningDataset(gcs_uri=files["train"]),
            config=tuning_config(
                self._task.config,
                self._backend,
                types.TuningValidationDataset(gcs_uri=validation) if validation else None,
            ),
        )
        return job

    def find(self) -> list[View]:
        """By label."""

        def read() -> list[View]:
            asked = types.ListTuningJobsConfig(filter=f'labels.{UID}="{self._task.uid}"', page_size=100)
            jobs = [
                job for job in self._client.tunings.list(config=asked) if (job.labels or {}).get(UID) == self._task.uid
            ]
            return sorted(map(view_of, jobs), key=lambda view: (view.created, view.job))

        return self._ask(read, "tuning jobs")

    def submit(self, files: Mapping[str, str]) -> View:
        """One request."""
        try:
            return view_of(self._tune(self._client, files))
        except CONNECTION as error:
            raise Unsure(type(error).__name__) from error
        except errors.ServerError as error:
            raise Unsure(f"{error.code} {error.message}") from error
        except (errors.APIError, auth_errors.GoogleAuthError) as error:
            raise self._verdict(error, f"tuning of {self._task.base}") from None

    def look(self, job: str) -> View:
        """With its checkpoints."""
        return self._ask(lambda: view_of(self._client.tunings.get(name=job)), job)

    def logged(self, job: str, after: str | None) -> list[Logged]:
        """Vertex logs steps to an experiment only, which the tuning API does not read."""
        return []

    def cancel(self, job: str) -> None:
        """A job that has ended cannot be cancelled, which is what was wanted."""

        def ask() -> None:
            try:
                self._client.tunings.cancel(name=job)
            except errors.ClientError as error:
                if error.code not in (400, 409) or view_of(self._client.tunings.get(name=job)).end is None:
                    raise

        self._ask(ask, job)

    def answer(self, model: str, chat: Chat, max_tokens: int) -> str:
        """Greedy, as far as the model allows."""
        row = contents_of(chat)
        asked = types.GenerateContentConfig(
            temperature=0.0,
            max_output_tokens=max_tokens,
            system_instruction=row["systemInstruction"]["parts"][0]["text"] if "systemInstruction" in row else None,
        )
        contents = [types.Content.model_validate(turn) for turn in row["contents"]]
        done = self._ask(
            lambda: self._client.models.generate_content(model=model, contents=contents, config=asked),
            f"an answer of {model}",
        )
        return done.text or ""

    def made(self, view: View) -> ProviderModel:
        """Model and endpoint."""
        return ProviderModel(
            kind="Vertex",
            model=str(view.model),
            endpoint=view.endpoint,
            base_model=self._task.base,
            base_url=self._backend.base_url,
            project=self._backend.project,
            location=self._backend.location,
            job=view.job,
        )

    def _ask(self, action: Callable[[], T], what: str) -> T:
        def once() -> T:
            try:
                return action()
            except (*CONNECTION, errors.APIError, storage_errors.GoogleAPIError, auth_errors.GoogleAuthError) as error:
                raise self._verdict(error, what) from None  # the library's error may quote a request

        return patiently(once, what, self._task.patience)

    def _verdict(self, error: Exception, what: str) -> Failure | Passing:
        """What an error means."""
        if isinstance(error, CONNECTION):
            return Passing(type(error).__name__)
        if isinstance(error, auth_errors.GoogleAuthError):
            return self._refused(what, str(error))
        status, said = _status(error)
        if status in (408, 429) or status >= 500:
            return Passing(f"{status} {said}", retry_after(_headers(error)))
        if status == 401:
            return self._refused(what, said)
        return _end(status, said, what, self._task.base, self._backend)

    def _refused(self, what: str, said: str) -> Passing:
        """The Secret may have been renewed: it is read again."""
        for name in ("_credentials", "_client"):
            self.__dict__.pop(name, None)
        ref = self._backend.secret_ref
        who = f"the credentials of Secret {ref.name!r}" if ref else "the pod's own identity"
        end = Failure(Reason.ACCESS_DENIED, f"{what}: Google refused {who}: {said[:400]}")
        return Passing(f"credentials refused: {said[:200]}", end=end, at_most=RENEWAL_SECONDS)


def _end(status: int, said: str, what: str, base: str, backend: VertexBackend) -> Failure:
    place = f"project {backend.project}, location {backend.location}"
    if status == 403:
        return Failure(Reason.ACCESS_DENIED, f"{what} ({place}): {said}")
    lowered = said.lower()
    if "location" in lowered or "region" in lowered:
        return Failure(Reason.BACKEND_ERROR, f"{what}: {said} (backend.vertex.location is {backend.location})")
    if status in (400, 404) and "model" in lowered:
        return Failure(Reason.MODEL_NOT_FOUND, f"baseModel vertex://{base} ({place}): {said}")
    return Failure(Reason.BACKEND_ERROR, f"{what} ({place}): Google answered {status}: {said}")


def _status(error: Exception) -> tuple[int, str]:
    if isinstance(error, errors.APIError):
        return error.code, str(error.message or error.status or "")[:600]
    return int(getattr(error, "code", None) or 0), str(getattr(error, "message", error))[:600]


def _headers(error: Exception) -> Mapping[str, str]:
    return getattr(getattr(error, "response", None), "headers", None) or {}
