"""The OpenAI request bodies this server takes, and its errors. A parameter that is not supported is refused by name.

Neighbours: :mod:`finetune_server.api` parses with it, :mod:`finetune_server.answers` builds the replies.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 128

NOT_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "top_k": (-1, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "skip_special_tokens": (True,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
"""Parameters of OpenAI's and vLLM's clients that would change the answer, and the values that change nothing."""


class ApiError(Exception):
    """An error body of OpenAI's; ``type`` and ``code`` are what clients look at, the message is for people."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | int | None = None,
        type: str = "invalid_request_error",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}


class ModelRefused(Exception):
    """A base model that cannot be served; the message says why."""


def unavailable(message: str) -> ApiError:
    """The server cannot take work now."""
    return ApiError(503, message, type="service_unavailable", code="service_unavailable", retry_after=5)


class Body(BaseModel):
    """Base class of what clients send; JSON types are taken as they are."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Padding against traffic analysis; this server adds none, which the option allows."""


class Sampled(Body):
    """What completions and chat completions have in common."""

    model: str
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    stop: str | list[str] = Field(default_factory=list)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = None
    metadata: dict[str, str] | None = None
    """The caller's own notes, as ``user``: they change no answer."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Where generation ends. Raises ApiError on an empty one, which would end everything."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if "" in stop:
            raise ApiError(400, "`stop` must not hold an empty string.", param="stop")
        return stop


class CompletionRequest(Sampled):
    """Body of POST /v1/completions."""

    prompt: str | list[str] | list[StrictInt] | list[list[StrictInt]]
    max_tokens: int = Field(default=16, ge=0)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool = False


class TextPart(Body):
    """A part of a message; this server reads text only."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def for_template(self) -> dict[str, str]:
        """As chat templates want it: content is one string."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text} | ({"name": self.name} if self.name else {})


class ChatCompletionRequest(Sampled):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)


class LoadAdapter(Body):
    """Body of POST /v1/load_lora_adapter."""

    lora_name: str = ""
    lora_path: str = ""
    load_inplace: Literal[False] = False


class UnloadAdapter(Body):
    """Body of POST /v1/unload_lora_adapter."""

    lora_name: str = ""
    lora_int_id: int | None = None


AnyBody = TypeVar("AnyBody", bound=Body)


def parse(kind: type[AnyBody], raw: bytes) -> AnyBody:
    """The body as a model. Raises ApiError that names the parameter."""
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise ApiError(400, f"The request body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ApiError(400, f"The request body must be a JSON object, not {type(data).__name__}.")
    data = _without_nulls(data)
    for name, neutral in NOT_SUPPORTED.items():
        if name in data and data.pop(name) not in neutral:
            allowed = "".join(f" or send {json.dumps(value)}" for value in neutral)
            raise ApiError(
                400, f"`{name}` is not supported; leave it out{allowed}.", param=name, code="unsupported_parameter"
            )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _refusal(error) from error


def _without_nulls(value: Any) -> Any:
    """For OpenAI's clients a null is a parameter left out."""
    if isinstance(value, dict):
        return {key: _without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_without_nulls(member) for member in value]
    return value


def _refusal(error: ValidationError) -> ApiError:
    # Of a choice of types every member complains; the one that got furthest is the one that was meant.
    first = max(error.errors(), key=lambda found: len(found["loc"]))
    param = str(first["loc"][0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"Unknown parameter: `{where}`.", param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"`{where}` is missing.", param=param, code="missing_required_parameter")
    return ApiError(400, f"`{where}`: {first['msg']}.", param=param, code="invalid_value")
