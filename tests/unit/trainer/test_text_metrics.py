"""Figures of written answers are those of the libraries papers use, row by row and over all rows; intervals can be drawn of them."""

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from finetune_api.reasons import Failure
from finetune_api.v1alpha1.evaluation import AnswerFormat, GateRule, Metric
from finetune_api.v1alpha1.reinforcement import JsonSchemaReward, RegexReward
from finetune_stage.gate import Exams, decide
from finetune_stage.scores import RowScore, figures, row_values
from finetune_trainer.answering import before
from finetune_trainer.rewards import Answer
from finetune_trainer.text_metrics import format_check, judged, token_f1

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "away,", "quickly.", "Über", "dem", "Tor"]
METRICS: tuple[Metric, ...] = ("Bleu", "Chrf", "TokenF1", "Rouge1", "Rouge2", "RougeL")


def sentences(seed: int, count: int = 40) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) for _ in range(count)]


def scored(texts: list[str], references: list[str], stated: AnswerFormat | None = None) -> list[RowScore]:
    check = format_check(stated)
    asked: list[Metric] = [*METRICS, "FormatCompliance", "ExactMatch"]
    return [
        RowScore(id=str(place), nll=0, tokens=0, **judged(Answer(text, reference, [], []), asked, check))
        for place, (text, reference) in enumerate(zip(texts, references, strict=True))
    ]


REFERENCES = sentences(1)
NEAR = [" ".join(text.split()[:-1] or ["none"]) for text in REFERENCES]
FAR = sentences(2)


@pytest.mark.parametrize("texts", [NEAR, FAR, REFERENCES, [""] * len(REFERENCES)], ids=["near", "far", "same", "empty"])
def test_bleu_and_chrf_are_sacrebleus_of_the_corpus(texts: list[str]) -> None:
    found = figures(scored(texts, REFERENCES), ["Bleu", "Chrf"])
    assert found["Bleu"] == pytest.approx(BLEU().corpus_score(texts, [REFERENCES]).score, abs=1e-9)
    assert found["Chrf"] == pytest.approx(CHRF().corpus_score(texts, [REFERENCES]).score, abs=1e-9)


@pytest.mark.parametrize(("metric", "kind"), [("Rouge1", "rouge1"), ("Rouge2", "rouge2"), ("RougeL", "rougeL")])
def test_rouge_is_that_of_rouge_score_where_the_words_are_ascii(metric: Metric, kind: str) -> None:
    pairs = [(text, reference) for text, reference in zip(FAR, REFERENCES, strict=True) if (text + reference).isascii()]
    scorer = RougeScorer([kind])
    expected = [scorer.score(reference, text)[kind].fmeasure for text, reference in pairs]
    texts, references = zip(*pairs, strict=True)
    assert row_values(scored(list(texts), list(references)), metric) == pytest.approx(expected)


def test_rouge_knows_other_scripts() -> None:
    [same] = row_values(scored(["東京 へ 行く"], ["東京 へ 行く"]), "Rouge1")
    assert same == 1


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("The cat.", "a cat", 1.0),
        ("black cat", "cat", 2 / 3),
        ("dog", "cat", 0.0),
        ("", "", 1.0),
        ("", "cat", 0.0),
        ("cat cat", "cat", 2 / 3),
    ],
)
def test_token_f1(text: str, reference: str, expected: float) -> None:
    assert token_f1(text, reference) == pytest.approx(expected)


def test_format_compliance_is_the_share_of_answers_that_keep_it() -> None:
    texts = ['{"area": "net"}', '{"area": 3}', "net", '{"area": "os"}']
    schema = '{"type": "object", "properties": {"area": {"type": "string"}}, "required": ["area"]}'
    by_schema = AnswerFormat(json_schema=JsonSchemaReward(document=schema))
    by_pattern = AnswerFormat(regex=RegexReward(pattern=r"^\{.*\}$"))
    assert figures(scored(texts, texts, by_schema), ["FormatCompliance"]) == {"FormatCompliance": 0.5}
    assert figures(scored(texts, texts, by_pattern), ["FormatCompliance"]) == {"FormatCompliance": 0.75}


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(Failure, match="pattern"):
        format_check(AnswerFormat(regex=RegexReward(pattern="(")))


@pytest.mark.parametrize("metric", METRICS)
def test_a_gate_on_overlap_is_decided_by_the_intervals_lower_end(metric: Metric) -> None:
    near, far = scored(NEAR, REFERENCES), scored(FAR, REFERENCES)
    rule = GateRule(metric=metric, min_delta_versus_base=0.1, beats=["Base"])
    assert [result.passed for result in decide([rule], Exams(near, far, None), seed=1)] == [True]
    assert [result.passed for result in decide([rule], Exams(near, near, None), seed=1)] == [False]


def test_latencies_are_of_the_rows_that_were_timed() -> None:
    timed = [RowScore(id=str(i), nll=0, tokens=0, seconds=i / 10 if i < 11 else None) for i in range(20)]
    found = figures(timed, ["LatencyP50Seconds", "LatencyP95Seconds"])
    assert found == pytest.approx({"LatencyP50Seconds": 0.5, "LatencyP95Seconds": 0.95})


def test_an_answer_ends_before_the_first_stop_string() -> None:
    assert before(["##", "b"], "a ## b") == "a "
    assert before(["##"], "a b") == "a b"
