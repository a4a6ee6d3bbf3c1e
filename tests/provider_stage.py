"""Stand-ins for providers, on loopback: OpenAI's surface, and Vertex AI's generateContent with Google's token service.

Paths, fields, error bodies and the events of streams are those of the services' REST references; what they say is our own.
"""

import asyncio
import json
import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

KEY = "sk-the-tenants-own"


@cache
def private_key() -> str:
    """A service account's, in PEM; made once, as that takes a while."""
    return pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))


def pem(key: rsa.RSAPrivateKey) -> str:
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*encoding).decode()


def site_port(site: web.TCPSite) -> int:
    return int(site._server.sockets[0].getsockname()[1])


@dataclass
class Provider(ABC):
    """What both have in common: requests are kept, and faults are played."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    fault: tuple[int, Any, dict[str, str]] | None = None
    """Status, body and headers of every answer."""
    is_dropping: bool = False
    """Every connection is closed without an answer."""
    breaks_off: bool = False
    """Streams end in their midst."""
    runner: web.AppRunner | None = None
    port: int = 0
    tls: ssl.SSLContext | None = None

    def write_certificate(self, folder: Path) -> None:
        """Listen by TLS, with a certificate no authority signed."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.now(UTC)
        address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        certificate = made.add_extension(address, critical=False).sign(key, hashes.SHA256())
        (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / "key.pem").write_text(pem(key))
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(folder / "certificate.pem", folder / "key.pem")

    @abstractmethod
    def routes(self) -> list[web.RouteDef]: ...

    async def start(self) -> None:
        app = web.Application()
        app.add_routes(self.routes())
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port, ssl_context=self.tls)
        await site.start()
        self.port = site_port(site)

    async def stop(self) -> None:
        assert self.runner is not None
        await self.runner.cleanup()

    async def take(self, request: web.Request) -> web.Response | dict[str, Any]:
        """The request's body, or the fault that is played."""
        self.paths.append(request.path_qs)
        self.headers.append(request.headers)
        self.seen.append(await request.json())
        if self.is_dropping:
            assert request.transport
            request.transport.close()
            return web.Response()
        if self.fault is not None:
            status, body, headers = self.fault
            return web.Response(
                status=status, text=body if isinstance(body, str) else json.dumps(body), headers=headers
            )
        return self.seen[-1]

    async def send(self, request: web.Request, events: list[dict[str, Any]], end: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            data = f"data: {json.dumps(event)}\r\n\r\n".encode()
            await response.write(data[:9])  # in pieces, as networks do
            await asyncio.sleep(0)
            await response.write(data[9:])
            if self.breaks_off:
                assert request.transport
                request.transport.close()
                return response
        await response.write(end)
        return response


@dataclass
class OpenAIService(Provider):
    """Chat completions of any model of ``models``; completions only where ``has_completions``."""

    models: set[str] = field(default_factory=lambda: {"ft:tuned", "gpt-base"})
    key: str = KEY
    has_completions: bool = True
    wants_completion_tokens: bool = False
    """As models that think: max_tokens is refused."""

    @property
    def base_url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/v1"

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/chat/completions", self.chat), web.post("/v1/completions", self.complete)]

    def refusal(self, request: web.Request, body: dict[str, Any]) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return refused(401, f"Incorrect API key provided: {self.key}.", "invalid_api_key")
        if body["model"] not in self.models:
            return refused(404, f"The model `{body['model']}` does not exist", "model_not_found")
        if self.wants_completion_tokens and "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return refused(400, message, "unsupported_parameter")
        return None

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await self.take(request)
        no = body if isinstance(body, web.Response) else self.refusal(request, body)
        if no is not None:
            return no
        said = f"{body['model']} to {body['messages'][-1]['content']}"
        # A dated name, as OpenAI answers with.
        known = {"id": "chatcmpl-1", "created": 1, "model": f"{body['model']}-2026-01-01"}
        if not body.get("stream"):
            message = {"role": "assistant", "content": said, "refusal": None}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
            answer = known | {"object": "chat.completion", "choices": [choice], "usage": usage}
            return web.json_response(answer, headers={"Set-Cookie": "provider=1", "Openai-Organization": "acme"})
        deltas = [{"role": "assistant", "content": ""}, *({"content": word + " "} for word in said.split())]
        events = [choices_chunk(known, [{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
        events.append(choices_chunk(known, [{"index": 0, "delta": {}, "finish_reason": "stop"}]))
        return await self.send(request, events, b"data: [DONE]\n\n")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await self.take(request)
        no = body if isinstance(body, web.Response) else self.refusal(request, body)
        if no is not None:
            return no
        if not self.has_completions:
            return refused(404, "This is a chat model and not supported in the v1/completions endpoint.", None)
        choice = {"index": 0, "text": f"{body['model']} on {body['prompt']}", "logprobs": None, "finish_reason": "stop"}
        known = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"], "choices": [choice]}
        if body.get("stream"):
            return await self.send(request, [known], b"data: [DONE]\n\n")
        return web.json_response(known)


def choices_chunk(known: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    return known | {"object": "chat.completion.chunk", "choices": choices}


def refused(status: int, message: str, code: str | None) -> web.Response:
    """An error as OpenAI words it."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)


@dataclass
class VertexService(Provider):
    """generateContent and streamGenerateContent of any resource of ``resources``, and the token service."""

    resources: set[str] = field(
        default_factory=lambda: {
            "projects/acme/locations/us-central1/endpoints/123",
            "projects/acme/locations/us-central1/publishers/google/models/gemini-base",
        }
    )
    tokens: list[str] = field(default_factory=list)
    """Those given out."""
    refuses_tokens: bool = False
    blocks: str | None = None
    """Why prompts are blocked."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/token", self.token), web.post("/v1/{resource:.+}", self.generate)]

    def write_credentials(self, folder: Path) -> None:
        """A service account's key file, for a Secret."""
        folder.mkdir(parents=True, exist_ok=True)
        account = {
            "type": "service_account",
            "project_id": "acme",
            "private_key_id": "1",
            "private_key": private_key(),
            "client_email": "tuner@acme.iam.gserviceaccount.com",
            "token_uri": f"{self.base_url}/token",
        }
        (folder / "credentials.json").write_text(json.dumps(account))

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        if self.refuses_tokens:
            body = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            return web.json_response(body, status=400)
        self.tokens.append(f"token-{len(self.tokens)}")
        return web.json_response({"access_token": self.tokens[-1], "expires_in": 3600, "token_type": "Bearer"})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await self.take(request)
        if isinstance(body, web.Response):
            return body
        resource, _, verb = request.match_info["resource"].rpartition(":")
        if request.headers.get("Authorization") != f"Bearer {self.tokens[-1] if self.tokens else ''}":
            return google_error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if resource not in self.resources:
            return google_error(404, "NOT_FOUND", f"Publisher Model `{resource}` was not found.")
        if self.blocks:
            return web.json_response({"promptFeedback": {"blockReason": self.blocks}})
        said = f"{resource.rpartition('/')[2]} to {body['contents'][-1]['parts'][0]['text']}"
        usage = {"promptTokenCount": 3, "candidatesTokenCount": 4, "thoughtsTokenCount": 2, "totalTokenCount": 9}
        if verb == "generateContent":
            parts = [{"text": "let me think", "thought": True}, {"text": said}]
            return web.json_response({"candidates": [candidate(parts, "STOP")], "usageMetadata": usage})
        assert request.query["alt"] == "sse"
        assert verb == "streamGenerateContent"
        words = said.split()
        events: list[dict[str, Any]] = [{"candidates": [candidate([{"text": word + " "}])]} for word in words[:-1]]
        events.append({"candidates": [candidate([{"text": words[-1]}], "STOP")], "usageMetadata": usage})
        return await self.send(request, events, b"")


def candidate(parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
    content = {"role": "model", "parts": parts}
    return {"content": content} | ({"finishReason": finish} if finish else {})


def google_error(status: int, name: str, message: str) -> web.Response:
    """An error as Google words it."""
    return web.json_response({"error": {"code": status, "message": message, "status": name}}, status=status)
