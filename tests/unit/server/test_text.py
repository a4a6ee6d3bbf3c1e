"""Tokens into text. The tokenizer here has one token per byte, so that every boundary can be hit."""

import random

import pytest

from finetune_server.generation import Decoder, Generation, Piece, SamplingParams, TextStream, Token

EOS = 256


class Bytes:
    """A tokenizer whose tokens are bytes; 256 is a special token without text."""

    def decode(self, tokens: list[int], **_: bool) -> str:
        return bytes(token for token in tokens if token != EOS).decode(errors="replace")


DECODER = Decoder(Bytes(), frozenset({EOS}))


def told(text: bytes, *stop: str) -> tuple[list[str], bool]:
    """What a client is told token by token, and whether a stop string ended it."""
    stream = TextStream(DECODER, stop)
    parts = []
    for token in text:
        part, is_stopped = stream.push(token)
        parts.append(part)
        if is_stopped:
            return parts, True
    return [*parts, stream.flush()], False


def test_a_character_is_told_whole() -> None:
    assert told("aé€😀b".encode()) == (["a", "", "é", "", "", "€", "", "", "", "😀", "b", ""], False)


def test_half_a_character_at_the_end_is_told_as_such() -> None:
    assert told("a€".encode()[:-1]) == (["a", "", "", "�"], False)


@pytest.mark.parametrize("seed", range(50))
def test_parts_of_any_bytes_are_the_text_of_all_bytes(seed: int) -> None:
    noise = random.Random(seed).choices([*"aé€😀".encode(), 0x80, 0xFF, 0xC3, 0x20], k=60)
    parts, _ = told(bytes(noise), "never in there")
    assert "".join(parts) == bytes(noise).decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        pytest.param("one\n\ntwo", ("\n\n",), "one", id="across tokens"),
        pytest.param("aaab", ("aab",), "a", id="a beginning that overlaps itself"),
        pytest.param("abcabd", ("abd",), "abc", id="a beginning that came to nothing"),
        pytest.param("xENDy", ("y", "END"), "x", id="the earliest of several"),
        pytest.param("a€b", ("€",), "a", id="of several bytes"),
        pytest.param("stop", ("stop",), "", id="from the start"),
    ],
)
def test_a_stop_string_ends_the_text_and_no_part_of_it_is_told(text: str, stop: tuple[str, ...], expected: str) -> None:
    parts, is_stopped = told(text.encode(), *stop)
    assert ("".join(parts), is_stopped) == (expected, True)


def test_text_that_only_began_like_a_stop_string_is_told_at_the_end() -> None:
    assert told(b"xEN", "END") == (["x", "", "", "EN"], False)


def generation(**params: int | str | tuple[str, ...] | bool | None) -> Generation:
    return Generation(None, [*b"hi"], SamplingParams(**{"max_tokens": 3, **params}), DECODER, lambda _: None)  # type: ignore[arg-type]


def finishes(made: Generation, tokens: list[int]) -> list[tuple[str, str | None]]:
    return [(piece.text, piece.finish) for token in tokens for piece in made.extend(Token(token))]


def test_a_generation_ends_at_its_length() -> None:
    assert finishes(generation(), [*b"abc"]) == [("a", None), ("b", None), ("c", "length")]


def test_a_generation_ends_at_the_end_token_and_tells_what_it_held() -> None:
    assert finishes(generation(stop=("bX",)), [*b"ab", EOS]) == [("a", None), ("", None), ("b", "stop")]


def test_a_generation_ends_at_a_stop_string() -> None:
    assert finishes(generation(stop=("b",)), [*b"ab"]) == [("a", None), ("", "stop")]


def test_echo_comes_before_the_first_token() -> None:
    prompt = (Token(ord("h")), Token(ord("i")))
    assert generation(echo=True).extend(Token(ord("a"))) == [
        Piece("hi", prompt, is_prompt=True),
        Piece("a", (Token(ord("a")),)),
    ]
    assert generation(echo=True, max_tokens=0).extend(None) == [Piece("hi", prompt, "length", is_prompt=True)]


def test_the_space_of_a_first_word_depends_on_the_prompt() -> None:
    class Words:
        """As SentencePiece: every word brings its space, a text's first word loses it."""

        def decode(self, tokens: list[int], **_: bool) -> str:
            return "".join(f" w{token}" for token in tokens)[1:]

    stream = TextStream(Decoder(Words(), frozenset()), (), context=[1, 2])
    assert [stream.push(3), stream.push(4)] == [(" w3", False), (" w4", False)]
