"""Preferences, verdicts and classes: explicit forms out of what datasets have."""

from typing import Any

import pytest

from canonical_rows import broken, prepared
from finetune_trainer.data.formats import prepared_format, prepared_rows

ASK = {"role": "user", "content": "2 and 2?"}
RIGHT = {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}


class TestPreference:
    def test_an_explicit_prompt_stays(self) -> None:
        row = {"prompt": "2 and 2? ", "chosen": "4", "rejected": "5"}
        assert prepared({**row, "score": 1}, "Preference") == row

    def test_a_shared_beginning_becomes_the_prompt_without_cutting_words(self) -> None:
        row = {"chosen": "Two and two is forty-four minus 40.", "rejected": "Two and two is forty."}
        assert prepared(row, "Preference") == {
            "prompt": "Two and two is",
            "chosen": " forty-four minus 40.",
            "rejected": " forty.",
        }

    def test_a_dialogue_is_cut_after_its_last_turn(self) -> None:
        said = "\n\nHuman: 2 and 2?\n\nAssistant: It is 4.\n\nHuman: Sure?\n\nAssistant:"
        row = {"chosen": f"{said} I am sure.", "rejected": f"{said} I am not."}
        assert prepared(row, "Preference") == {"prompt": said, "chosen": " I am sure.", "rejected": " I am not."}

    @pytest.mark.parametrize("prompt", [None, "2 and 2?", [ASK]])
    def test_whole_conversations_are_cut_where_they_part(self, prompt: Any) -> None:
        row = {"chosen": [ASK, RIGHT], "rejected": [ASK, WRONG]}
        expected = {"prompt": [ASK], "chosen": [RIGHT], "rejected": [WRONG]}
        assert prepared(row if prompt is None else row | {"prompt": prompt}, "Preference") == expected

    @pytest.mark.parametrize("prompt", ["2 and 2?", [ASK]])
    @pytest.mark.parametrize("sides", [([RIGHT], [WRONG]), ("4", "5")])
    def test_messages_and_texts_may_be_mixed(self, prompt: Any, sides: Any) -> None:
        chosen, rejected = sides
        row = prepared({"prompt": prompt, "chosen": chosen, "rejected": rejected}, "Preference")
        if prompt == "2 and 2?" and chosen == "4":
            assert row == {"prompt": "2 and 2?", "chosen": "4", "rejected": "5"}
        else:
            assert row == {"prompt": [ASK], "chosen": [RIGHT], "rejected": [WRONG]}

    @pytest.mark.parametrize(
        ("row", "field", "found"),
        [
            pytest.param(
                {"prompt": "a", "chosen": "b", "rejected": "b"}, "rejected", "the same answer as in chosen", id="equal"
            ),
            pytest.param(
                {"chosen": "a b", "rejected": "a b"}, "rejected", "the same answer as in chosen", id="equal texts"
            ),
            pytest.param(
                {"chosen": [ASK, RIGHT], "rejected": [ASK, RIGHT]},
                "rejected",
                "the same answer as in chosen",
                id="equal conversations",
            ),
            pytest.param(
                {"prompt": [ASK], "chosen": [RIGHT], "rejected": [RIGHT]},
                "rejected",
                "the same answer as in chosen",
                id="equal messages",
            ),
            pytest.param(
                {"chosen": "a b", "rejected": "c d"},
                "chosen",
                "no answer after a beginning shared with the other side",
                id="no prompt",
            ),
            pytest.param({"prompt": "a", "chosen": "b"}, "rejected", "nothing", id="one side"),
            pytest.param({"prompt": "a", "chosen": "b", "rejected": [WRONG]}, "rejected", "a list of 1", id="mixed"),
            pytest.param(
                {"prompt": [ASK], "chosen": [RIGHT, ASK], "rejected": [WRONG]}, "chosen", "user", id="ends with user"
            ),
            pytest.param({"prompt": [ASK, RIGHT], "chosen": [RIGHT], "rejected": [WRONG]}, "prompt[1].role",
                         "assistant", id="the prompt is an answer"),
            pytest.param(
                {"prompt": "other", "chosen": [ASK, RIGHT], "rejected": [ASK, WRONG]},
                "prompt",
                "a string of 5 characters",
                id="another prompt",
            ),
            pytest.param(
                {"chosen": [ASK, RIGHT], "rejected": [{"role": "user", "content": "3?"}, WRONG]},
                "rejected",
                "a conversation that begins otherwise than the chosen one",
                id="other conversations",
            ),
        ],
    )  # fmt: skip
    def test_a_broken_pair_says_where(self, row: dict[str, Any], field: str, found: str) -> None:
        assert broken(row, "Preference") == (field, found)


class TestUnpaired:
    @pytest.mark.parametrize(("label", "meant"), [(True, True), (0, False), ("True", True), ("false", False)])
    def test_a_verdict_may_be_a_word_or_a_number(self, label: Any, meant: bool) -> None:
        row = prepared({"prompt": "a", "completion": "b", "label": label}, "Unpaired")
        assert row == {"prompt": "a", "completion": "b", "label": meant}

    def test_messages(self) -> None:
        row = prepared({"prompt": [ASK], "completion": [RIGHT], "label": True}, "Unpaired")
        assert row == {"prompt": [ASK], "completion": [RIGHT], "label": True}

    @pytest.mark.parametrize("label", [None, 2, "good", 1.0])
    def test_other_verdicts_are_refused(self, label: Any) -> None:
        assert broken({"prompt": "a", "completion": "b", "label": label}, "Unpaired")[0] == "label"

    def test_kto_learns_from_each_side_of_a_preference(self) -> None:
        row = prepared({"prompt": "a", "chosen": "b", "rejected": "c"}, "Preference")
        assert prepared_rows(row, "Preference", "kto") == [
            {"prompt": "a", "completion": "b", "label": True},
            {"prompt": "a", "completion": "c", "label": False},
        ]
        assert prepared_rows(row, "Preference", "dpo") == [row]
        assert prepared_format("Preference", "kto") == "Unpaired"
        assert prepared_format("Preference", "dpo") == "Preference"


class TestClassification:
    @pytest.mark.parametrize(
        ("fields", "labels"),
        [
            ({"label": "spam"}, ["spam"]),
            ({"label": 3}, ["3"]),
            ({"label": False}, ["false"]),
            ({"labels": ["a", 1]}, ["a", "1"]),
            ({"labels": []}, []),
        ],
    )
    def test_one_class_or_several(self, fields: dict[str, Any], labels: list[str]) -> None:
        assert prepared({"text": "x", **fields}, "Classification") == {"text": "x", "labels": labels}

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"label": None}, "label"),
            ({"label": 1.5}, "label"),
            ({"label": " "}, "label"),
            ({"labels": "a"}, "labels"),
            ({"labels": ["a", "a"]}, "labels"),
            ({"labels": ["a", None]}, "labels[1]"),
        ],
    )
    def test_what_is_no_class_is_refused(self, fields: dict[str, Any], field: str) -> None:
        assert broken({"text": "x", **fields}, "Classification")[0] == field
