"""OpenAI's completions in the words of its chat completions, for models that only chat. Pure."""

from typing import Any

from finetune_gateway.errors import ApiError

Json = dict[str, Any]

DEFAULT_MAX_TOKENS = 16
"""What the completions API gives to a request that does not say."""
UNTRANSLATABLE = ("echo", "suffix", "logprobs")


def as_chat(wish: Json) -> Json:
    """The chat that asks for a completion: the prompt is the user's message. Raises ApiError for what a chat cannot say."""
    for name in UNTRANSLATABLE:
        if wish.get(name) not in (None, False):
            raise ApiError(400, "unsupported_parameter", f"`{name}` is not supported: this model only chats.", name)
    if wish.get("best_of") not in (None, 1):
        raise ApiError(400, "unsupported_parameter", "`best_of` is not supported: this model only chats.", "best_of")
    prompt = wish.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise ApiError(400, "invalid_prompt", "`prompt` must be one text: this model only chats.", "prompt")
    rest = {name: value for name, value in wish.items() if name not in (*UNTRANSLATABLE, "best_of", "prompt")}
    return {"max_tokens": DEFAULT_MAX_TOKENS, **rest, "messages": [{"role": "user", "content": prompt}]}


def as_completion(chat: Json) -> Json:
    """A chat's answer as a completion."""
    choices = [text_choice(choice, choice.get("message")) for choice in chat.get("choices") or []]
    return chat | {"object": "text_completion", "choices": choices}


def as_completion_chunk(chunk: Json) -> Json:
    """A chat's chunk as a completion's; empty where it only says who speaks."""
    choices = [text_choice(choice, choice.get("delta")) for choice in chunk.get("choices") or []]
    if choices and not any(choice["text"] or choice["finish_reason"] for choice in choices):
        return {}
    return chunk | {"object": "text_completion", "choices": choices}


def text_choice(choice: Json, message: Json | None) -> Json:
    """A choice of a completion."""
    return {
        "index": choice.get("index", 0),
        "text": (message or {}).get("content") or "",
        "logprobs": None,
        "finish_reason": choice.get("finish_reason"),
    }
