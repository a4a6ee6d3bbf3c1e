"""Answers beside their references, row by row: overlap of words and characters, and whether the format is kept.

Figures and intervals are made of these by :mod:`finetune_stage.scores`, which needs none of the libraries here.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from finetune_api.v1alpha1.evaluation import AnswerFormat, Metric
from finetune_api.v1alpha1.reinforcement import RewardSpec
from finetune_stage.overlap import BLEU_ORDERS, CHRF_ORDERS
from finetune_trainer.rewards import Answer, Reward, reward

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
WORDS = re.compile(r"[^\W_]+")


def judged(answer: Answer, metrics: Iterable[Metric], keeps_format: Reward | None) -> dict[str, Any]:
    """Members of a RowScore: what the answer is by each of the metrics; by those that compare no texts nothing."""
    asked = set(metrics)
    values = {name: value(answer.text, answer.reference) for name, value in VALUES.items() if name in asked}
    if keeps_format is not None and "FormatCompliance" in asked:
        values["FormatCompliance"] = keeps_format(answer)
    terms = {name: term(answer.text, answer.reference) for name, term in TERMS.items() if name in asked}
    exact = answer.text.strip() == answer.reference.strip() if "ExactMatch" in asked else None
    return {"exact": exact, "values": values or None, "terms": terms or None}


def format_check(stated: AnswerFormat | None) -> Reward | None:
    """1 for an answer that keeps the format, else 0. Raises Failure for a pattern or a schema that is none."""
    if stated is None:
        return None
    return reward(RewardSpec(regex=stated.regex, json_schema=stated.json_schema))


def token_f1(text: str, reference: str) -> float:
    """Of the words in common, as SQuAD counts them: lower case, without punctuation and articles."""
    ours, right = _squad_words(text), _squad_words(reference)
    if not ours or not right:
        return float(ours == right)
    hits = sum((Counter(ours) & Counter(right)).values())
    return 2 * hits / (len(ours) + len(right))


def _squad_words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


class Words:
    """ROUGE's own tokenizer knows ASCII letters only; this one gives the same words there, and those of other scripts."""

    def tokenize(self, text: str) -> list[str]:
        """Lower-case words."""
        return WORDS.findall(text.lower())


@cache
def _rouge(kind: str) -> Callable[[str, str], float]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=Words())
    return lambda text, reference: float(scorer.score(reference, text)[kind].fmeasure)


def _bleu_terms(text: str, reference: str) -> list[float]:
    """Tokens of the answer and of the reference, n-grams in common, n-grams of the answer."""
    found = _sacrebleu().sentence_score(text, [reference])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


@cache
def _sacrebleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(max_ngram_order=BLEU_ORDERS, effective_order=True)


def _chrf_terms(text: str, reference: str) -> list[float]:
    """For each order the answer's character n-grams, the reference's, those in common."""
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    ours, right = (extract_all_char_ngrams(each, CHRF_ORDERS, include_whitespace=False) for each in (text, reference))
    return [
        float(sum(count.values()))
        for mine, theirs in zip(ours, right, strict=True)
        for count in (mine if theirs else Counter(), theirs, mine & theirs)
    ]


VALUES: dict[Metric, Callable[[str, str], float]] = {
    "TokenF1": token_f1,
    "Rouge1": lambda text, reference: _rouge("rouge1")(text, reference),
    "Rouge2": lambda text, reference: _rouge("rouge2")(text, reference),
    "RougeL": lambda text, reference: _rouge("rougeL")(text, reference),
}
"""Of answer and reference, for metrics that are means over rows."""
TERMS: dict[Metric, Callable[[str, str], list[float]]] = {"Bleu": _bleu_terms, "Chrf": _chrf_terms}
"""Of answer and reference, for metrics of all rows together."""
