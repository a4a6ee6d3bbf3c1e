"""Prompts into tokens, with a tokenizer that puts a first token before every text, as Llama's does."""

import pytest
from tokenizers import processors

from finetune_server.prompts import Prompts
from finetune_server.protocol import ApiError, ChatCompletionRequest, CompletionRequest
from tiny_models import tiny_tokenizer

BOS = 0
CHAT = ChatCompletionRequest.model_validate({"model": "base", "messages": [{"role": "user", "content": "red"}]})


@pytest.fixture
def prompts() -> Prompts:
    tokenizer = tiny_tokenizer()  # type: ignore[no-untyped-call]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", BOS)]
    )
    tokenizer.chat_template = "<|endoftext|>{{ messages[0].content }}{{ raise_exception('no') if messages[1] }}"
    return Prompts(tokenizer, vocabulary=320, max_model_len=8)


async def test_a_text_gets_the_first_token_of_its_tokenizer(prompts: Prompts) -> None:
    (tokens,) = await prompts.of_completion(CompletionRequest(model="base", prompt="red", max_tokens=1))
    assert tokens[0] == BOS
    assert tokens.count(BOS) == 1


async def test_a_conversation_gets_it_from_its_template_alone(prompts: Prompts) -> None:
    tokens, room = await prompts.of_chat(CHAT)
    assert tokens[0] == BOS
    assert tokens.count(BOS) == 1
    assert room == 8 - len(tokens)


async def test_a_model_without_a_template_says_so(prompts: Prompts) -> None:
    prompts._tokenizer.chat_template = None
    with pytest.raises(ApiError, match="`base` has no chat template; use /v1/completions"):
        await prompts.of_chat(CHAT)


async def test_what_the_template_refuses_is_told(prompts: Prompts) -> None:
    with pytest.raises(ApiError, match="chat template refuses these messages: no"):
        await prompts.of_chat(CHAT.model_copy(update={"messages": CHAT.messages * 2}))
