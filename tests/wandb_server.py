"""A stand-in for a server of Weights & Biases, of which there is none to install: it takes a run from the library's own sender."""

import base64
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API_KEY = "0123456789" * 4


@dataclass
class Received:
    """What a server was sent."""

    uri: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    """Variables of the mutation that makes or updates one."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Logged steps."""


@contextmanager
def serve() -> Iterator[Received]:
    """A server on this machine that knows one key."""
    server = _Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """Keeps what it was sent."""

    def __init__(self, *address_and_handler: Any) -> None:
        super().__init__(*address_and_handler)
        self.received = Received(f"http://127.0.0.1:{self.server_port}")


class _Handler(BaseHTTPRequestHandler):
    """GraphQL, and the stream of a run's lines."""

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_PUT(self) -> None:
        self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        assert isinstance(self.server, _Server)
        body, received = self._body(), self.server.received
        basic = base64.b64encode(f"api:{API_KEY}".encode()).decode()
        if self.path.startswith("/sdk/otel"):
            self._answer(200, {})
        elif self.headers.get("Authorization") != f"Basic {basic}":
            self._answer(401, {"errors": [{"message": "who are you"}]})
        elif self.path == "/graphql":
            self._answer(200, {"data": _data(received, json.loads(body))})
        else:
            lines = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            received.history += map(json.loads, lines)
            self._answer(200, {})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, code: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _data(received: Received, request: dict[str, Any]) -> dict[str, Any]:
    query, variables = request["query"], request.get("variables") or {}
    if "upsertBucket" in query:
        received.runs.append(variables)
        project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": variables["entity"]}}
        run = {"id": "r", "name": variables["name"], "displayName": variables["displayName"], "config": "{}"}
        bucket = run | {"description": "", "sweepName": None, "historyLineCount": 0, "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if "createRunFiles" in query:
        files = [{"name": name, "uploadUrl": f"{received.uri}/upload/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
    return {}
