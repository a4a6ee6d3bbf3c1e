"""Model names in JSON text."""

import json

import pytest

from finetune_gateway.rewrite import NotARequest, Renamer, parse_request

EVENT = b'data: {"id":"1","model":"support-abc","choices":[{"delta":{"content":"x"}}]}\n\n'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(b'{"model":"support-abc"}', b'{"model":"support"}', id="compact"),
        pytest.param(b'{"model" : "support-abc"}', b'{"model" : "support"}', id="with blanks"),
        pytest.param(b'{"model":"base"}', b'{"model":"base"}', id="another model stays"),
        pytest.param(b'{"model":"support-abcd"}', b'{"model":"support-abcd"}', id="a longer name stays"),
        pytest.param(b'{"text":"support-abc"}', b'{"text":"support-abc"}', id="a text that is the name stays"),
    ],
)
def test_answers_carry_the_public_name(answer: bytes, expected: bytes) -> None:
    assert Renamer("support-abc", "support").whole(answer) == expected


def test_a_text_that_quotes_json_stays() -> None:
    answer = json.dumps({"text": 'say {"model": "support-abc"}'}).encode()
    assert Renamer("support-abc", "support").whole(answer) == answer


def test_a_public_name_may_hold_anything_json_can() -> None:
    answer = Renamer("a-1", 'Bücher "\\1" \n').whole(b'{"model":"a-1"}')
    assert json.loads(answer) == {"model": 'Bücher "\\1" \n'}


@pytest.mark.parametrize("size", [1, 3, 7, 20, 1000])
def test_events_are_renamed_wherever_they_are_cut(size: int) -> None:
    stream = EVENT * 3 + b"data: [DONE]"
    renamer = Renamer("support-abc", "support")
    out = b"".join(renamer.feed(stream[i : i + size]) for i in range(0, len(stream), size)) + renamer.rest()
    assert out == stream.replace(b"support-abc", b"support")


def test_a_whole_event_is_passed_on_at_once() -> None:
    assert Renamer("support-abc", "support").feed(EVENT) == EVENT.replace(b"-abc", b"")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"{", "not JSON", id="broken"),
        pytest.param(b"\xff", "not JSON", id="not text"),
        pytest.param(b"[" * 100_000, "not JSON", id="too deep"),
        pytest.param(b"[]", "not a JSON object", id="a list"),
        pytest.param(b"{}", "no `model`", id="no model"),
        pytest.param(b'{"model": 3}', "no `model`", id="a number"),
    ],
)
def test_a_request_without_a_model_name_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(NotARequest, match=says):
        parse_request(body)
