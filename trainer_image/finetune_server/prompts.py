"""Prompts into token ids, away from the event loop: a long one takes a while.

Used by :mod:`finetune_server.api`. One thread of its own: fast tokenizers are not meant to be configured by two threads.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jinja2 import TemplateError

from finetune_server.protocol import ApiError, ChatCompletionRequest, CompletionRequest


class Prompts:
    """The base model's tokenizer and its limits."""

    def __init__(self, tokenizer: Any, vocabulary: int, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._max_model_len = max_model_len
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")

    async def of_completion(self, body: CompletionRequest) -> list[list[int]]:
        """One list of token ids per prompt, each checked against the context."""
        prompts = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode_all, body)
        for tokens in prompts:
            self._check(tokens, body.max_tokens, "prompt")
        return prompts

    async def of_chat(self, body: ChatCompletionRequest) -> tuple[list[int], int]:
        """The conversation as token ids, and how many tokens may follow."""
        tokens = await asyncio.get_running_loop().run_in_executor(self._thread, self._render, body)
        asked = body.max_completion_tokens or body.max_tokens
        self._check(tokens, asked or 1, "messages")
        return tokens, asked or self._max_model_len - len(tokens)

    def _encode_all(self, body: CompletionRequest) -> list[list[int]]:
        prompt = body.prompt
        if isinstance(prompt, str):
            return [self._encode(prompt)]
        if not prompt:
            raise ApiError(400, "`prompt` is empty.", param="prompt")
        if isinstance(prompt[0], int):
            return [self._check_ids(prompt)]
        return [self._encode(part) if isinstance(part, str) else self._check_ids(part) for part in prompt]

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text).input_ids
        return tokens

    def _check_ids(self, tokens: Any) -> list[int]:
        wrong = next((token for token in tokens if not 0 <= token < self._vocabulary), None)
        if wrong is not None:
            raise ApiError(400, f"Token id {wrong} is not within 0 and {self._vocabulary - 1}.", param="prompt")
        return list(tokens)

    def _render(self, body: ChatCompletionRequest) -> list[int]:
        if not self._tokenizer.chat_template:
            message = f"The model `{body.model}` has no chat template; use /v1/completions."
            raise ApiError(400, message, param="messages", code="no_chat_template")
        messages = [message.for_template() for message in body.messages]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ApiError(400, f"The chat template refuses these messages: {error}", param="messages") from error
        # The template has written the special tokens already; a second begin-of-sequence changes the answer.
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return tokens

    def _check(self, tokens: list[int], wanted: int, param: str) -> None:
        if not tokens:
            raise ApiError(400, f"`{param}` holds no token.", param=param)
        if len(tokens) + wanted > self._max_model_len:
            raise ApiError(
                400,
                f"This model's maximum context length is {self._max_model_len} tokens. However, you requested "
                f"{len(tokens) + wanted} tokens ({len(tokens)} in the {param}, {wanted} in the completion). "
                f"Please reduce the length of the {param} or completion.",
                param=param,
                code="context_length_exceeded",
            )
