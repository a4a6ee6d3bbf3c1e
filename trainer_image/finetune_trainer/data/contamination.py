"""Training rows that contain what the evaluation asks: thirteen words in a row in common, as for GPT-3.

Runs of words that more than ten evaluation rows contain are a template, and prove nothing.
"""

from collections.abc import Iterable

import numpy as np

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import Source, Suite
from finetune_stage.outcome import Places
from finetune_trainer.data.findings import Findings
from finetune_trainer.data.reading import read_rows
from finetune_trainer.data.sources import fetch_source
from finetune_trainer.data.words import Hashes, own_text, runs

RUN = 13
TEMPLATE_ROWS = 10


class Guarded:
    """The runs of words of texts that must not be trained on."""

    def __init__(self, name: str, texts: Iterable[str]) -> None:
        self.name = name
        self.rows = 0
        """Training rows that contain one of them."""
        found = [np.unique(runs(text, RUN, whole=False)) for text in texts]  # a row counts once
        known, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *found]), return_counts=True)
        self._known: Hashes = known[counts <= TEMPLATE_ROWS]

    def meets(self, found: Hashes) -> bool:
        """Whether a training row's runs are among them; such a row is counted."""
        places = np.searchsorted(self._known, found)
        places[places == len(self._known)] = 0
        met = bool(len(self._known)) and bool((self._known[places] == found).any())
        self.rows += met
        return met


def guarded_suite(suite: Suite, places: Places) -> Guarded:
    """A named evaluation suite, whatever the shape of its rows."""
    source = Source(uri=suite.uri, secret_ref=suite.secret_ref)
    files = fetch_source(f"suite-{suite.name.replace('/', '-')}", source, places)
    findings = Findings()
    texts = (own_text(row) for file in files for _, row in read_rows(file.path, file.name, findings))
    guarded = Guarded(suite.name, texts)
    if findings.count:
        raise Failure(Reason.DATA_INVALID, f"dataset.quality.suites, {suite.name}: {findings.sentence()}")
    return guarded
