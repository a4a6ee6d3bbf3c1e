"""What clients may send, and how a refusal names the parameter."""

import json
from typing import Any

import pytest

from finetune_server.protocol import ApiError, ChatCompletionRequest, CompletionRequest, parse

CHAT = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "base", "prompt": "hi"}


def refusal(kind: Any, body: Any) -> dict[str, Any]:
    with pytest.raises(ApiError) as refused:
        parse(kind, json.dumps(body).encode() if not isinstance(body, bytes) else body)
    assert refused.value.status == 400
    error = refused.value.body["error"]
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(
    ("extra", "param", "words"),
    [
        pytest.param({"frequency_penalty": 0.5}, "frequency_penalty", "leave it out or send 0", id="a penalty"),
        pytest.param({"logit_bias": {"5": 1}}, "logit_bias", "leave it out or send {}", id="a bias"),
        pytest.param({"tools": [{"type": "function"}]}, "tools", "not supported", id="tools"),
        pytest.param({"response_format": {"type": "json_object"}}, "response_format", "not supported", id="JSON mode"),
        pytest.param({"temprature": 0}, "temprature", "Unknown parameter: `temprature`", id="a slip of the pen"),
        pytest.param({"temperature": 3}, "temperature", "less than or equal to 2", id="out of range"),
        pytest.param({"temperature": "hot"}, "temperature", "valid number", id="a wrong type"),
        pytest.param({"top_p": 0}, "top_p", "greater than 0", id="top_p of nothing"),
        pytest.param({"n": 0}, "n", "greater than or equal to 1", id="no choice"),
        pytest.param({"top_logprobs": 21}, "top_logprobs", "less than or equal to 20", id="too many alternatives"),
        pytest.param({"stream_options": {"a": 1}}, "stream_options", "`stream_options.a`", id="inside an object"),
        pytest.param({"messages": []}, "messages", "at least 1 item", id="no message"),
        pytest.param({"messages": [{"role": "tool", "content": ""}]}, "messages", "messages.0.role", id="a role"),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages",
            "'text'",
            id="an image",
        ),
    ],
)
def test_a_refused_chat_parameter_is_named(extra: dict[str, Any], param: str, words: str) -> None:
    error = refusal(ChatCompletionRequest, CHAT | extra)
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(b"{", "not JSON", id="half a body"),
        pytest.param([], "must be a JSON object, not list", id="a list"),
        pytest.param({"model": "base"}, "`prompt` is missing", id="no prompt"),
        pytest.param(COMPLETION | {"prompt": [1, "a"]}, "`prompt", id="a mixed prompt"),
        pytest.param(COMPLETION | {"prompt": [True]}, "`prompt", id="booleans are no token ids"),
        pytest.param(COMPLETION | {"best_of": 3}, "`best_of` is not supported", id="best_of"),
    ],
)
def test_a_refused_completion_says_why(body: Any, words: str) -> None:
    assert words in refusal(CompletionRequest, body)["message"]


def test_neutral_values_of_unsupported_parameters_and_nulls_are_taken() -> None:
    neutral = {"frequency_penalty": 0.0, "logit_bias": {}, "tools": None, "response_format": {"type": "text"}}
    message = {"role": "assistant", "content": "hello", "refusal": None, "tool_calls": None}
    body = parse(ChatCompletionRequest, json.dumps({**CHAT, **neutral, "seed": None, "messages": [message]}).encode())
    assert body == ChatCompletionRequest.model_validate(
        {"model": "base", "messages": [{"role": "assistant", "content": "hello"}]}
    )


def test_integers_are_taken_for_numbers_and_defaults_are_those_of_openai() -> None:
    body = parse(CompletionRequest, json.dumps(COMPLETION | {"temperature": 0, "stop": "."}).encode())
    assert (body.temperature, body.top_p, body.n, body.max_tokens, body.stop_strings) == (0, 1, 1, 16, (".",))


def test_an_empty_stop_string_is_refused() -> None:
    body = parse(CompletionRequest, json.dumps(COMPLETION | {"stop": ["a", ""]}).encode())
    with pytest.raises(ApiError, match="empty string"):
        assert body.stop_strings
