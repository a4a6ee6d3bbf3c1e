"""The HTTP surface: OpenAI's completion endpoints, vLLM's adapter endpoints, health.

Parses with :mod:`finetune_server.protocol`, generates through :mod:`finetune_server.engine`, answers with
:mod:`finetune_server.answers`. A handler whose client has gone is cancelled and takes its sequences with it.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler

from finetune_server.answers import ChatFormat, CompletionFormat, Json, Usage, joined
from finetune_server.engine import Engine
from finetune_server.generation import Decoder, Generation, Piece, SamplingParams
from finetune_server.prompts import Prompts
from finetune_server.protocol import (
    ApiError,
    ChatCompletionRequest,
    CompletionRequest,
    LoadAdapter,
    Sampled,
    UnloadAdapter,
    parse,
    unavailable,
)
from finetune_server.registry import Registry

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 2**20
SHUTDOWN_SECONDS = 5
"""For answers to be written; by then the engine has drained."""

Stream = AsyncGenerator[tuple[int, Piece], None]


@dataclass(frozen=True)
class Work:
    """A request that passed all checks."""

    body: Sampled
    prompts: list[list[int]]
    params: SamplingParams
    style: CompletionFormat | ChatFormat

    @property
    def choices(self) -> int:
        """Sequences the client gets."""
        return len(self.prompts) * self.body.n


class Api:
    """Handlers; they answer 503 until :meth:`open` was called."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._registry: Registry | None = None

    def open(self, registry: Registry, prompts: Prompts, decoder: Decoder) -> None:
        """The model answers; from now on so does this."""
        self._prompts = prompts
        self._decoder = decoder
        self._registry = registry

    def runner(self) -> web.AppRunner:
        """The application: routes, and OpenAI's error bodies everywhere."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[errors])
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/v1/models", self.models),
                web.post("/v1/load_lora_adapter", self.load_adapter),
                web.post("/v1/unload_lora_adapter", self.unload_adapter),
                web.post("/v1/completions", self.completions),
                web.post("/v1/chat/completions", self.chat_completions),
            ]
        )
        return web.AppRunner(app, handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS)

    @property
    def registry(self) -> Registry:
        """Raises ApiError while there is none."""
        if self._registry is None:
            raise unavailable("The model is being loaded.")
        return self._registry

    async def health(self, request: web.Request) -> web.Response:
        """200 while the model answers, 503 before, 500 after its thread died."""
        state = "loading" if self._registry is None else self._engine.state
        return web.Response(status={"ready": 200, "loading": 503, "dead": 500}[state], text=state)

    async def models(self, request: web.Request) -> web.Response:
        """What can be asked for."""
        return web.json_response({"object": "list", "data": self.registry.cards()})

    async def load_adapter(self, request: web.Request) -> web.Response:
        """Serve one adapter more."""
        body = parse(LoadAdapter, await request.read())
        if not body.lora_name or not body.lora_path:
            message = "Both 'lora_name' and 'lora_path' must be provided."
            raise ApiError(400, message, type="InvalidUserInput", code=400)
        # A client that gives up must not leave an adapter in the model that has no name.
        await asyncio.shield(self.registry.load(body.lora_name, body.lora_path))
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload_adapter(self, request: web.Request) -> web.Response:
        """Serve one adapter less."""
        body = parse(UnloadAdapter, await request.read())
        if not body.lora_name:
            message = "'lora_name' needs to be provided to unload a LoRA adapter."
            raise ApiError(400, message, type="InvalidUserInput", code=400)
        self.registry.unload(body.lora_name)
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Go on with texts."""
        body = parse(CompletionRequest, await request.read())
        self.registry.get(body.model)
        if body.max_tokens == 0 and not body.echo:
            raise ApiError(400, "`max_tokens` 0 asks for nothing without `echo`.", param="max_tokens")
        prompts = await self._prompts.of_completion(body)
        params = sampling(body, body.max_tokens, body.logprobs, echo=body.echo)
        style = CompletionFormat(body.model, self._decoder, body.logprobs is not None)
        return await self._answer(request, Work(body, prompts, params, style))

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        """Answer a conversation."""
        body = parse(ChatCompletionRequest, await request.read())
        self.registry.get(body.model)
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "`top_logprobs` needs `logprobs` to be true.", param="top_logprobs")
        prompt, max_tokens = await self._prompts.of_chat(body)
        params = sampling(body, max_tokens, (body.top_logprobs or 0) if body.logprobs else None)
        style = ChatFormat(body.model, self._decoder, body.logprobs, body.top_logprobs or 0)
        return await self._answer(request, Work(body, [prompt], params, style))

    async def _answer(self, request: web.Request, work: Work) -> web.StreamResponse:
        usage = Usage(prompt_tokens=sum(map(len, work.prompts)))
        async with aclosing(self._run(work)) as stream:
            if work.body.stream:
                return await send_chunks(request, work, stream, usage)
            pieces: list[list[Piece]] = [[] for _ in range(work.choices)]
            async for index, piece in stream:
                pieces[index].append(piece)
                usage.count(piece)
        return web.json_response(work.style.answer([joined(parts) for parts in pieces], usage))

    async def _run(self, work: Work) -> Stream:
        """Pieces of all choices as they come. Whoever leaves early takes the sequences along."""
        events: asyncio.Queue[tuple[int, Piece | ApiError]] = asyncio.Queue()

        def put(index: int, piece: Piece | ApiError) -> None:
            events.put_nowait((index, piece))

        # Looked up again: while the prompt was read the adapter may have gone. From here to submit nothing else runs.
        served = self.registry.get(work.body.model)
        decoder = self._decoder if served.stop_tokens is None else replace(self._decoder, eos=served.stop_tokens)
        generations = [
            Generation(
                served.key,
                work.prompts[index // work.body.n],
                replace(work.params, seed=seed_of(work.body, index % work.body.n)),
                decoder,
                partial(put, index),
            )
            for index in range(work.choices)
        ]
        self._engine.submit(generations)
        try:
            unfinished = len(generations)
            while unfinished:
                index, piece = await events.get()
                if isinstance(piece, ApiError):
                    raise piece
                unfinished -= piece.finish is not None
                yield index, piece
        finally:
            for generation in generations:
                generation.cancelled = True


async def send_chunks(request: web.Request, work: Work, stream: Stream, usage: Usage) -> web.StreamResponse:
    """Server-sent events. The headers wait for the first piece, so that what fails before it has its own status."""
    options = work.body.stream_options
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})

    async def send(chunk: Json) -> None:
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    no_usage = {"usage": None} if options.include_usage else {}
    try:
        async for index, piece in stream:
            if not response.prepared:
                await response.prepare(request)
                for chunk in work.style.opening(work.choices):
                    await send(chunk | no_usage)
            usage.count(piece)
            if piece.text or piece.finish or work.style.has_logprobs:
                await send(work.style.chunk(index, piece) | no_usage)
        if options.include_usage:
            await send(work.style.usage_chunk(usage))
    except ApiError as error:
        if not response.prepared:
            raise
        await send(error.body)
    await response.write(b"data: [DONE]\n\n")
    return response


def sampling(body: Sampled, max_tokens: int, logprobs: int | None, *, echo: bool = False) -> SamplingParams:
    """What the model thread needs to know of a request."""
    return SamplingParams(max_tokens, body.temperature, body.top_p, None, body.stop_strings, logprobs, echo)


def seed_of(body: Sampled, choice: int) -> str | None:
    """Choices of one request differ, the same request does not."""
    return None if body.seed is None else f"{body.seed}/{choice}"


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure as an OpenAI error body."""
    try:
        return await handler(request)
    except ApiError as error:
        found = error
    except web.HTTPException as error:
        found = ApiError(error.status, f"{request.method} {request.path}: {error.reason}")
    except ConnectionError:
        raise  # the client has gone; nobody reads an answer
    except Exception:  # the edge of the server: logged whole, told without its inside
        log.exception("%s %s failed", request.method, request.path)
        found = ApiError(500, "The server failed on this request.", type="server_error")
    headers = {} if found.retry_after is None else {"Retry-After": str(found.retry_after)}
    return web.json_response(found.body, status=found.status, headers=headers)
