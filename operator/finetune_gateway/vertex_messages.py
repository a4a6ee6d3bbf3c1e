"""OpenAI's chat completions in the words of Gemini's generateContent, and back. Pure.

What would change the answer and has no counterpart is refused by name, never dropped.
"""

from typing import Any

from finetune_gateway.errors import ApiError

Json = dict[str, Any]

NUMBERS = {
    "temperature": "temperature",
    "top_p": "topP",
    "n": "candidateCount",
    "max_tokens": "maxOutputTokens",
    "max_completion_tokens": "maxOutputTokens",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "seed": "seed",
}
"""OpenAI's parameters and Gemini's, with the same meaning."""
HARMLESS = {"model", "messages", "stream", "stream_options", "user", "stop", "response_format", *NUMBERS}
FORMATS = {"text": "text/plain", "json_object": "application/json"}
FINISH = {"STOP": "stop", "MAX_TOKENS": "length"}
FILTERED = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "LANGUAGE"}
ROLES = {"user": "user", "assistant": "model"}
INSTRUCTIONS = ("system", "developer")


def request(wish: Json) -> Json:
    """The body of generateContent. Raises ApiError for what cannot be asked of it."""
    for name, value in wish.items():
        if name not in HARMLESS and value not in (None, False, [], {}):
            raise ApiError(400, "unsupported_parameter", f"`{name}` is not supported with this provider.", name)
    messages = wish.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "invalid_messages", "`messages` must be a list that is not empty.", "messages")
    instructions = [part for message in messages if role(message) in INSTRUCTIONS for part in parts(message)]
    contents = [
        {"role": ROLES[role(message)], "parts": parts(message)} for message in messages if role(message) in ROLES
    ]
    body: Json = {"contents": contents}
    if instructions:
        body["systemInstruction"] = {"parts": instructions}
    if config := generation_config(wish):
        body["generationConfig"] = config
    return body


def role(message: Any) -> str:
    """A message's role. Raises ApiError for one that has no counterpart."""
    found = message.get("role") if isinstance(message, dict) else None
    if found not in (*ROLES, *INSTRUCTIONS):
        known = ", ".join((*INSTRUCTIONS, *ROLES))
        raise ApiError(
            400, "invalid_messages", f"the role of a message must be one of {known}, found {found!r}", "messages"
        )
    return str(found)


def parts(message: Json) -> list[Json]:
    """A message's text. Raises ApiError for anything else in it."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"text": content}]
    pieces = content if isinstance(content, list) else []
    if not pieces or any(not isinstance(piece, dict) or piece.get("type") != "text" for piece in pieces):
        raise ApiError(400, "invalid_messages", "the content of a message must be text", "messages")
    return [{"text": str(piece.get("text", ""))} for piece in pieces]


def generation_config(wish: Json) -> Json:
    """Sampling, lengths and ends."""
    config: Json = {theirs: wish[ours] for ours, theirs in NUMBERS.items() if wish.get(ours) is not None}
    stop = wish.get("stop")
    if stop:
        config["stopSequences"] = [stop] if isinstance(stop, str) else stop
    if wish.get("response_format") is not None:
        kind = wish["response_format"].get("type") if isinstance(wish["response_format"], dict) else None
        if kind not in FORMATS:
            message = f"`response_format` must have the type {' or '.join(FORMATS)}, found {kind!r}"
            raise ApiError(400, "unsupported_parameter", message, "response_format")
        config["responseMimeType"] = FORMATS[kind]
    return config


def text_of(candidate: Json) -> str:
    """The text of a candidate, without the model's thoughts."""
    found = (candidate.get("content") or {}).get("parts") or []
    return "".join(part.get("text", "") for part in found if not part.get("thought"))


def finish_of(candidate: Json) -> str | None:
    """OpenAI's word for why it ended; None: it goes on."""
    reason = candidate.get("finishReason")
    if reason in FILTERED:
        return "content_filter"
    return FINISH.get(reason, "stop") if reason else None


def usage_of(response: Json) -> Json | None:
    """Tokens; thoughts are billed as output."""
    found = response.get("usageMetadata")
    if not found:
        return None
    prompt = found.get("promptTokenCount", 0)
    completion = found.get("candidatesTokenCount", 0) + found.get("thoughtsTokenCount", 0)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def is_blocked(response: Json) -> str | None:
    """Why the prompt was not answered at all."""
    feedback = response.get("promptFeedback") or {}
    return str(feedback["blockReason"]) if feedback.get("blockReason") and not response.get("candidates") else None


def answer(response: Json, identity: Json) -> Json:
    """A chat completion; ``identity`` is its id, time and model."""
    choices = [
        {
            "index": candidate.get("index", 0),
            "message": {"role": "assistant", "content": text_of(candidate)},
            "logprobs": None,
            "finish_reason": finish_of(candidate) or "stop",
        }
        for candidate in response.get("candidates") or []
    ]
    return {**identity, "object": "chat.completion", "choices": choices, "usage": usage_of(response)}


def chunk(response: Json, identity: Json, started: set[int]) -> Json:
    """A chunk of a chat completion; ``started`` are the choices whose speaker was named, and grows."""
    choices = []
    for candidate in response.get("candidates") or []:
        index = candidate.get("index", 0)
        delta: Json = (
            {"content": text_of(candidate)}
            if index in started
            else {"role": "assistant", "content": text_of(candidate)}
        )
        started.add(index)
        choices.append({"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_of(candidate)})
    return {**identity, "object": "chat.completion.chunk", "choices": choices}


def usage_chunk(usage: Json | None, identity: Json) -> Json:
    """The last chunk where usage was asked for."""
    return {**identity, "object": "chat.completion.chunk", "choices": [], "usage": usage}
