"""Near duplicates, contamination, secrets, refusals and histograms, each on texts that just are and just are not."""

import random
from typing import Any

import numpy as np
import pytest

from finetune_trainer.data.contamination import TEMPLATE_ROWS, Guarded
from finetune_trainer.data.near import HASHES, near_duplicates, signature
from finetune_trainer.data.privacy import PERSONAL, SECRETS, kinds
from finetune_trainer.data.reporting import EDGES, histogram
from finetune_trainer.data.survey import LANGUAGE_ROWS, REFUSAL, Survey, counts
from finetune_trainer.data.words import own_text, runs


def a_text(seed: int, words: int = 200) -> list[str]:
    return [f"w{number}" for number in random.Random(seed).choices(range(50_000), k=words)]


def near(*texts: str) -> list[bool]:
    signatures = np.frombuffer(b"".join(map(signature, texts)), np.uint16).reshape(-1, HASHES)
    return [bool(each) for each in near_duplicates(signatures)]


class TestNear:
    def test_a_changed_word_makes_a_near_duplicate_of_the_first(self) -> None:
        one, other = a_text(1), a_text(2)
        changed = [*one[:100], "other", *one[101:]]
        assert near(" ".join(other), " ".join(one), " ".join(changed), ", ".join(one).upper()) == [
            False,
            False,
            True,
            True,
        ]

    def test_a_text_of_which_a_half_is_another_is_none(self) -> None:
        one, other = a_text(1), a_text(2)
        assert near(" ".join(one), " ".join([*one[:100], *other[100:]])) == [False, False]

    def test_similarity_is_that_of_the_runs_of_words(self) -> None:
        """The estimate on pairs of known similarity, within four standard errors."""
        for changed in (5, 20, 60):
            one = a_text(changed, 500)
            other = [*one[: 500 - changed], *a_text(99, changed)]
            a, b = (set(runs(" ".join(text), 5, whole=True).tolist()) for text in (one, other))
            signatures = [np.frombuffer(signature(" ".join(text)), np.uint16) for text in (one, other)]
            exact = len(a & b) / len(a | b)
            assert (signatures[0] == signatures[1]).mean() == pytest.approx(exact, abs=4 * 0.045)

    def test_all_pairs_that_are_near_are_found_among_many(self) -> None:
        texts = [a_text(seed, 120) for seed in range(300)]
        copies = [[*text[:60], "x", *text[61:]] for text in texts[::3]]
        found = near(*(" ".join(text) for text in [*texts, *copies]))
        assert found == [False] * 300 + [True] * 100

    def test_nothing_is_near_nothing(self) -> None:
        assert near("short", "", "other") == [False, False, False]

    def test_texts_without_words_are_near_only_to_the_same(self) -> None:
        assert near("\N{GRINNING FACE}", "\N{CRYING FACE}", "?!", "\N{GRINNING FACE}") == [False, False, False, True]

    def test_scripts_without_spaces(self) -> None:
        one = "".join(chr(0x4E00 + each) for each in random.Random(1).choices(range(5000), k=200))
        assert near(one, one[:100] + "。" + one[100:], one[::-1]) == [False, True, False]


class TestOwnText:
    def test_what_all_rows_share_is_left_out(self) -> None:
        chat = {
            "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
            "tools": [{"a": "T"}],
        }
        assert own_text(chat) == "U"
        alpaca = "Below is an instruction that describes a task.\n\n### Instruction:\nAdd.\n\n### Response:\n"
        assert own_text({"prompt": alpaca, "completion": "2"}) == "Add.\n\n### Response:\n\n2"


class TestContamination:
    def test_thirteen_words_in_a_row_are_too_many_and_twelve_are_not(self) -> None:
        text = a_text(1, 40)
        guarded = Guarded("test", [" ".join(text)])
        other = a_text(2, 20)

        def row(words: int) -> Any:
            return runs(" ".join([*other, *text[:words], *other]), 13, whole=False)

        assert [guarded.meets(row(12)), guarded.meets(row(13))] == [False, True]
        assert guarded.rows == 1

    def test_a_template_of_many_rows_is_no_proof(self) -> None:
        template = " ".join(a_text(1, 20))
        for rows, met in ((TEMPLATE_ROWS, True), (TEMPLATE_ROWS + 1, False)):
            guarded = Guarded("test", [f"{template} {' '.join(a_text(10 + row, 20))}" for row in range(rows)])
            assert guarded.meets(runs(template, 13, whole=False)) is met

    def test_short_texts_prove_nothing(self) -> None:
        guarded = Guarded("test", ["a short question"])
        assert not guarded.meets(runs("a short question", 13, whole=False))
        assert not guarded.meets(runs(" ".join(a_text(1)), 13, whole=False))


class TestPrivacy:
    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("key AKIAIOSFODNN7EXAMPLE.", "AWS access key"),
            ("-----BEGIN RSA PRIVATE KEY-----", "private key"),
            (f"ghp_{'a' * 36}", "GitHub token"),
            (f"hf_{'A' * 34}", "Hugging Face token"),
            ("postgres://root:hunter2@db/", "password in a URL"),
        ],
    )
    def test_secrets(self, text: str, kind: str) -> None:
        assert kinds(text, SECRETS) == [kind]

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("write to ada@example.org, please", "e-mail address"),
            ("call +49 30 901820", "phone number"),
            ("DE89 3704 0044 0532 0130 00", "IBAN"),
            ("078-05-1120", "US social security number"),
            ("4111 1111 1111 1111", "payment card"),
            ("host 192.168.10.1 is up", "IP address"),
        ],
    )
    def test_personal_data(self, text: str, kind: str) -> None:
        assert kinds(text, PERSONAL) == [kind]

    @pytest.mark.parametrize(
        "text",
        [
            "4111 1111 1111 1112",
            "version 1.2.3",
            "1 + 1 = 2",
            "@property",
            "3.14159265358979",
            "x-1234567890",
            "2026-11-25",
            "0000 0000 0000 0000",
        ],
    )
    def test_what_is_neither(self, text: str) -> None:
        assert kinds(text, SECRETS | PERSONAL) == []


class TestSurvey:
    @pytest.mark.parametrize(
        ("answer", "refused"),
        [
            ("I'm sorry, but I can't help with that.", True),
            ("I cannot provide this.", True),
            ("As an AI language model, I have no opinion.", True),
            ("Sorry to hear that! Here is what to do.", False),
            ("I can help. As an aide …", False),
        ],
    )
    def test_refusals(self, answer: str, refused: bool) -> None:
        assert (REFUSAL.match(answer) is not None) is refused

    def test_rows_are_counted_by_kind(self) -> None:
        survey = Survey(4, frozenset())
        for text, labels in (("ada@example.org und das ist alles", ["b"]), ("Das ist ein deutscher Satz.", ["a", "b"])):
            survey.add({"text": text, "labels": labels}, text)
        assert [(count.name, count.rows) for count in counts(survey.labels)] == [("b", 2), ("a", 1)]
        assert survey.sensitive == 1
        assert survey.languages == {"de": 2}

    def test_languages_are_those_of_a_sample_over_all_rows(self) -> None:
        survey = Survey(3 * LANGUAGE_ROWS - 1, frozenset())
        for _ in range(3 * LANGUAGE_ROWS - 1):
            survey.add({"text": ""}, "")
        assert survey.languages.total() == LANGUAGE_ROWS

    def test_answers_are_classes_where_the_evaluation_names_them(self) -> None:
        survey = Survey(1, frozenset({"yes", "no"}))
        survey.add({"prompt": "Is it?", "completion": " yes"}, "Is it? yes")
        assert survey.labels == {"yes": 1}


def test_a_histogram_counts_every_value_once_and_has_no_gaps() -> None:
    bars = histogram([0, 16, 17, 24, 1000])
    assert [(bar.up_to, bar.rows) for bar in bars][:2] == [(16, 2), (24, 2)]
    assert [bar.up_to for bar in bars] == EDGES[: len(bars)]
    assert sum(bar.rows for bar in bars) == 5
    assert histogram([]) == []
