"""What the rows of a split are like, besides their length: classes, languages, refusals, secrets and personal data."""

import re
from collections import Counter
from math import ceil

from finetune_api.data_report import MOST_COUNTS, Count
from finetune_stage.chats import answer_of
from finetune_trainer.data.fields import Row
from finetune_trainer.data.privacy import PERSONAL, SECRETS, kinds

LANGUAGE_ROWS = 2000
"""Rows at most whose language is looked at, evenly spread; telling a language takes longer than everything else."""
REFUSAL = re.compile(
    r"\s*(?:i['\u2019]?m (?:very |so )?sorry,? (?:but )?(?:i |as an )"
    r"|sorry,? (?:but )?i (?:can|am|do)"
    r"|i (?:cannot|can['\u2019]?t|am unable to|am not able to) (?:help|assist|provide|fulfil|comply|answer|do)"
    r"|as an ai\b"
    r"|i['\u2019]?m (?:just |only )?an ai\b)",
    re.IGNORECASE,
)
"""How answers begin that refuse to answer, in English."""


class Survey:
    """Counts of one split."""

    def __init__(self, rows: int, answers: frozenset[str]) -> None:
        self.labels: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.secrets: Counter[str] = Counter()
        self.personal: Counter[str] = Counter()
        self.refusals = 0
        self.sensitive = 0
        """Rows with a secret or personal data."""
        self._answers = answers
        self._every = ceil(rows / LANGUAGE_ROWS) or 1
        self._seen = 0

    def add(self, row: Row, text: str) -> None:
        """Note a row, and all that it says by itself."""
        answer = answer_of(row)
        secrets, personal = kinds(text, SECRETS), kinds(text, PERSONAL)
        self.secrets.update(secrets)
        self.personal.update(personal)
        self.sensitive += bool(secrets or personal)
        self.labels.update(row.get("labels", (answer.strip(),) if self._answers else ()))
        self.refusals += REFUSAL.match(answer) is not None
        if self._seen % self._every == 0:
            self.languages[_language(text)] += 1
        self._seen += 1


def counts(counter: Counter[str]) -> list[Count]:
    """The most frequent, in an order that is the same every time."""
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return [Count(name=name[:64], rows=rows) for name, rows in ordered[:MOST_COUNTS]]


def _language(text: str) -> str:
    import py3langid

    return str(py3langid.classify(text[:1000])[0])
