"""A transport that sends nothing and keeps the request: how a dry run shows what the provider's own client would send."""

import json

import httpx2


class Recorder:
    """Keeps the last request."""

    def __init__(self) -> None:
        self._text = "the client made no request"

    def transport(self) -> httpx2.MockTransport:
        """Answers every request with an error, so that nothing goes on from it."""
        return httpx2.MockTransport(self._keep)

    def _keep(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else {}
        self._text = f"{request.method} {request.url} {json.dumps(body, ensure_ascii=False)}"
        return httpx2.Response(400, json={"error": {"code": 400, "message": "a dry run sends nothing"}})

    def text(self) -> str:
        """Method, address and body; headers, which hold the key, are left out."""
        return self._text
