"""Vertex AI's tuning, content and Cloud Storage APIs as documented, and the token endpoint: paths, fields, error bodies, pages, states.

A tuning job takes some looks to run through its states. The tuned endpoint answers what it was trained on; the base does not.
"""

import json
import re
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from stand_in import Answer, Json, Request, StandIn

PROJECT = "team-a-project"
LOCATION = "europe-west4"
BASE = "gemini-2.5-flash"
PARENT = f"projects/{PROJECT}/locations/{LOCATION}"
RUN = (
    ("JOB_STATE_PENDING", None),
    ("JOB_STATE_RUNNING", "TUNING_JOB_STATE_WAITING_FOR_QUOTA"),
    ("JOB_STATE_RUNNING", "TUNING_JOB_STATE_TUNING"),
    ("JOB_STATE_SUCCEEDED", None),
)
TOKEN = "token-1"


def error(status: int, message: str, name: str) -> Answer:
    """An error body of google.rpc.Status."""
    return status, {"error": {"code": status, "message": message, "status": name}}


class Vertex(StandIn):
    """One project's jobs and buckets."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.token = TOKEN
        self.objects: dict[str, bytes] = {}
        self.jobs: dict[str, Json] = {}
        self.course: dict[str, list[tuple[str, str | None]]] = {}
        self.run: tuple[tuple[str, str | None], ...] = RUN
        self.end_error: Json | None = None
        self.lag = 0
        self.hidden: set[str] = set()
        root = f"/v1(?:beta1)?/(?:{PARENT}/)?"
        jobs = f"{root}tuningJobs"
        one = f"/v1(?:beta1)?/({PARENT}/tuningJobs/[^/:]+)"
        super().__init__(
            {
                ("POST", "/token"): lambda request: (
                    200,
                    {"access_token": self.token, "expires_in": 3600, "token_type": "Bearer"},
                ),
                ("POST", jobs): self.create,
                ("GET", jobs): self.list_jobs,
                ("GET", one): self.get,
                ("POST", f"{one}:cancel"): self.cancel,
                ("POST", "/v1(?:beta1)?/(.+):generateContent"): self.generate,
                ("GET", "/storage/v1/b/([^/]+)/o"): self.list_objects,
                ("GET", "/storage/v1/b/([^/]+)/o/(.+)"): self.object,
                ("GET", "/download/storage/v1/b/([^/]+)/o/(.+)"): self.download,
                ("POST", "/upload/storage/v1/b/([^/]+)/o"): self.upload,
                ("PUT", "/upload/storage/v1/b/([^/]+)/o"): self.upload,
            },
            host,
            port,
        )

    def answer(self, routes: Any, request: Request) -> Answer:
        if request.path != "/token" and request.headers.get("Authorization") != f"Bearer {self.token}":
            message = "Request had invalid authentication credentials. Expected OAuth 2 access token."
            return error(401, message, "UNAUTHENTICATED")
        other = re.search(r"/locations/([^/:]+)", request.path)
        if other and other[1] != LOCATION:
            return error(400, f"Tuning is not supported in location {other[1]}.", "FAILED_PRECONDITION")
        return super().answer(routes, request)

    def create(self, request: Request) -> Answer:
        asked = request.json
        if "baseModel" in asked and not asked["baseModel"].startswith(("gemini-", "publishers/")):
            return error(400, f"Base model {asked['baseModel']} is not supported.", "INVALID_ARGUMENT")
        spec = asked.get("supervisedTuningSpec") or asked["preferenceOptimizationSpec"]
        uri = spec["trainingDatasetUri"].removeprefix("gs://")
        if uri not in self.objects:
            return error(400, f"Could not find gs://{uri}", "INVALID_ARGUMENT")
        name = f"{PARENT}/tuningJobs/{100 + len(self.jobs)}"
        self.jobs[name] = {
            "name": name, "state": "JOB_STATE_PENDING", "createTime": f"2026-11-25T00:00:{len(self.jobs):02}Z",
            "updateTime": "2026-11-25T00:10:00Z", **asked,
        }  # fmt: skip
        self.course[name] = list(self.run)
        if self.lag:
            self.hidden.add(name)
        return 200, self.jobs[name]

    def list_jobs(self, request: Request) -> Answer:
        """Two a page, whatever is asked for; the filter is on labels."""
        wanted = re.fullmatch(r'labels\.([a-z-]+)="(.+)"', request.query["filter"])
        assert wanted
        shown = [
            job for name, job in self.jobs.items()
            if name not in self.hidden and job.get("labels", {}).get(wanted[1]) == wanted[2]
        ]  # fmt: skip
        if self.lag and request.query.get("pageToken") is None:
            self.lag -= 1
            if not self.lag:
                self.hidden.clear()
        start = int(request.query.get("pageToken") or 0)
        more = {"nextPageToken": str(start + 2)} if start + 2 < len(shown) else {}
        return 200, {"tuningJobs": shown[start : start + 2], **more}

    def get(self, request: Request, name: str) -> Answer:
        job = self.jobs.get(name)
        if job is None:
            return error(404, f"TuningJob {name} not found.", "NOT_FOUND")
        if self.course[name]:
            job["state"], detail = self.course[name].pop(0)
            job.pop("tuningJobState", None)
            job |= {"tuningJobState": detail} if detail else {}
        number = name.rsplit("/", 1)[1]
        if job["state"] == "JOB_STATE_SUCCEEDED":
            endpoint = f"{PARENT}/endpoints/{number}"
            job["endTime"] = "2026-11-25T01:00:00Z"
            job["tunedModel"] = {
                "model": f"{PARENT}/models/{number}@1", "endpoint": endpoint,
                "checkpoints": [
                    {"checkpointId": "1", "epoch": "1", "step": "5", "endpoint": f"{endpoint}1"},
                    {"checkpointId": "2", "epoch": "2", "step": "10", "endpoint": endpoint},
                ],
            }  # fmt: skip
            job["tuningDataStats"] = {
                "supervisedTuningDataStats": {"totalBillableTokenCount": "4321", "tuningStepCount": "10"}
            }
        if job["state"] == "JOB_STATE_FAILED":
            job["error"] = self.end_error or {"code": 13, "message": "Internal error."}
        return 200, job

    def cancel(self, request: Request, name: str) -> Answer:
        job = self.jobs[name]
        if job["state"] in ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"):
            return error(400, f"TuningJob {name} is in state {job['state']}.", "FAILED_PRECONDITION")
        self.course[name] = [("JOB_STATE_CANCELLED", None)]
        job["state"] = "JOB_STATE_CANCELLING"
        return 200, {}

    def generate(self, request: Request, model: str) -> Answer:
        question = request.json["contents"][-1]["parts"][0]["text"]
        learned = re.search("red|green|blue", question)
        answer = learned[0] if learned and "/endpoints/" in model else "I do not know."
        content = {"role": "model", "parts": [{"text": answer}]}
        return 200, {"candidates": [{"content": content, "finishReason": "STOP"}], "modelVersion": model}

    def object(self, request: Request, bucket: str, key: str) -> Answer:
        name = f"{bucket}/{unquote(key)}"
        if name not in self.objects:
            return error(404, f"No such object: {name}", "NOT_FOUND")
        return 200, self.metadata(bucket, unquote(key))

    def metadata(self, bucket: str, key: str) -> Json:
        contents = self.objects[f"{bucket}/{key}"]
        generation = str(zlib.crc32(contents))  # another one for other contents is all that clients know of it
        return {"name": key, "bucket": bucket, "size": str(len(contents)), "generation": generation}

    def list_objects(self, request: Request, bucket: str) -> Answer:
        """Two a page."""
        prefix = f"{bucket}/{request.query.get('prefix', '')}"
        names = sorted(name.partition("/")[2] for name in self.objects if name.startswith(prefix))
        start = int(request.query.get("pageToken") or 0)
        more = {"nextPageToken": str(start + 2)} if start + 2 < len(names) else {}
        return 200, {"items": [self.metadata(bucket, name) for name in names[start : start + 2]], **more}

    def download(self, request: Request, bucket: str, key: str) -> Answer:
        return 200, self.objects[f"{bucket}/{unquote(key)}"]

    def upload(self, request: Request, bucket: str) -> Answer:
        """A multipart upload: metadata, then the contents."""
        boundary = re.search(r'boundary="?([^";]+)', request.headers["Content-Type"])
        assert boundary
        _, metadata, data, _ = request.data.split(f"--{boundary[1]}".encode())
        described = json.loads(metadata.split(b"\r\n\r\n", 1)[1])
        contents = data.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        for line in contents.splitlines():
            assert "contents" in json.loads(line)
        self.objects[f"{bucket}/{described['name']}"] = contents
        return 200, {"name": described["name"], "bucket": bucket, "size": str(len(contents))}


def credentials(token_url: str) -> Json:
    """A service account's key whose tokens come from the stand-in."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return {
        "type": "service_account", "project_id": PROJECT, "private_key_id": "1", "private_key": pem,
        "client_email": f"tuner@{PROJECT}.iam.gserviceaccount.com", "token_uri": token_url,
    }  # fmt: skip


def write_credentials(folder: Path, vertex: Vertex) -> None:
    """The mounted Secret."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "credentials.json").write_text(json.dumps(credentials(f"{vertex.url}/token")))
