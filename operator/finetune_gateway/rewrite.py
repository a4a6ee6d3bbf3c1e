"""Model names in JSON text: found in requests, replaced in answers. Pure.

An answer is not parsed: the loaded name is unique, and inside a JSON string quotes are escaped, so only a real
``"model": "<name>"`` member can match.
"""

import json
import re
from typing import Any


class NotARequest(ValueError):
    """The body is not a JSON object with a model name."""


def parse_request(body: bytes) -> dict[str, Any]:
    """The request as an object whose ``model`` is a string. Raises NotARequest."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NotARequest(f"the body is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise NotARequest("the body is not a JSON object")
    if not isinstance(request.get("model"), str):
        raise NotARequest("the body has no `model`; name one of those listed at /v1/models")
    return request


class Renamer:
    """Gives an answer the name the client asked for."""

    def __init__(self, loaded: str, public: str) -> None:
        self.public = public
        self._pattern = re.compile(rb'("model"\s*:\s*)' + re.escape(json.dumps(loaded).encode()))
        self._quoted = json.dumps(public).encode()
        self._tail = b""

    def whole(self, body: bytes) -> bytes:
        """A whole answer."""
        return self._pattern.sub(lambda match: match[1] + self._quoted, body)

    def feed(self, chunk: bytes) -> bytes:
        """The next piece of an event stream: all whole lines so far; the rest waits for its end."""
        lines, newline, self._tail = (self._tail + chunk).rpartition(b"\n")
        return self.whole(lines + newline)

    def rest(self) -> bytes:
        """What is left at the end of the stream."""
        return self.whole(self._tail)
