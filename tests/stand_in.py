"""A provider's HTTP API to look into, on a port of this machine: what its paths answer, and the faults asked for.

Real clients talk to it. A fault is taken by the first request that fits, and counted in ``injected``.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]


@dataclass
class Fault:
    """What goes wrong with the next request to a path."""

    method: str
    path: str
    """Regular expression the whole path matches."""
    status: int | None = None
    """Answer with this; None: the connection is dropped without an answer."""
    body: Json = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    carried_out: bool = False
    """The request is carried out before its answer is lost."""
    delay_seconds: float = 0.0
    times: int = 1
    meanwhile: Callable[[], None] | None = None
    """Called before the answer, for example to kill the client."""


@dataclass
class Request:
    """What a client asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Json:
        parsed: Json = json.loads(self.data or b"{}")
        return parsed


Answer = tuple[int, Json | bytes]
Route = Callable[..., Answer]


class StandIn:
    """Serves routes: (method, regular expression of the path) -> handler(request, *groups)."""

    def __init__(self, routes: dict[tuple[str, str], Route], host: str = "127.0.0.1", port: int = 0) -> None:
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.injected = 0
        self.lock = threading.RLock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                parts = urlsplit(self.path)
                query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(
                    self.command, parts.path, query, {name.title(): value for name, value in self.headers.items()}, data
                )
                with outer.lock:
                    outer.requests.append(request)
                    fault = outer.fault(request)
                    answer = None if fault is not None and not fault.carried_out else outer.answer(routes, request)
                if fault is not None:
                    if fault.meanwhile is not None:
                        fault.meanwhile()
                    time.sleep(fault.delay_seconds)
                    if fault.status is None:
                        self.close_connection = True
                        return
                    answer = (fault.status, fault.body)
                assert answer is not None
                self._reply(answer, fault.headers if fault else {})

            def _reply(self, answer: Answer, headers: dict[str, str]) -> None:
                status, body = answer
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    self.close_connection = True  # the client was killed, or gave up waiting

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815  names of http.server

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer((host, port), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fault(self, request: Request) -> Fault | None:
        """The first fault that fits, used up."""
        for fault in self.faults:
            if fault.method == request.method and re.fullmatch(fault.path, request.path) and fault.times > 0:
                fault.times -= 1
                self.injected += 1
                return fault
        return None

    def answer(self, routes: dict[tuple[str, str], Route], request: Request) -> Answer:
        """What the path answers."""
        for (method, path), route in routes.items():
            found = re.fullmatch(path, request.path)
            if method == request.method and found:
                return route(request, *found.groups())
        return 404, {"error": {"message": f"no route {request.method} {request.path}"}}

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests to a path."""
        return [each for each in self.requests if each.method == method and re.fullmatch(path, each.path)]
