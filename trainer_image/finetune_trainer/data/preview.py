"""data/preview.txt: the first rows as the model sees them, token by token, with what is learned marked.

It lies beside the data, for a person to read; neither the status nor a log has any of it. A row that seems to hold a secret or
personal data is not shown.
"""

import json
from itertools import groupby, islice
from pathlib import Path

from finetune_trainer.data.privacy import is_sensitive
from finetune_trainer.data.splits import Prepared
from finetune_trainer.encode import IGNORED, Encoder, Example

ROWS = 3
MOST_TOKENS = 2000
HEADING = """\
The first rows of train.jsonl as the model sees them. A line is a run of tokens: "learn" where each is predicted and
counts in the loss, "see" where it is only read. Tokens are separated by |; the numbers are the positions in the row.
"""


def write_preview(folder: Path, data: Prepared, encoder: Encoder) -> None:
    """Write preview.txt into ``folder``."""
    (folder / "preview.txt").write_text(preview(data.files["train"], encoder, ROWS), encoding="utf-8")


def preview(path: Path, encoder: Encoder, rows: int) -> str:
    """The first rows of a prepared file."""
    with path.open("rb") as file:
        shown = [
            f"row {number}: not shown, it seems to hold a secret or personal data\n"
            if is_sensitive(line.decode())
            else _row(number, encoder.training(json.loads(line)), encoder)
            for number, line in enumerate(islice(file, rows), 1)
        ]
    return "\n".join([HEADING, *shown])


def _row(number: int, example: Example, encoder: Encoder) -> str:
    learned = sum(label != IGNORED for label in example.labels)
    lines = [f"row {number}: {len(example.input_ids)} tokens, {learned} of them learned"]
    pairs = list(zip(example.input_ids, example.labels, strict=True))[:MOST_TOKENS]
    for is_learned, run in groupby(enumerate(pairs), key=lambda each: each[1][1] != IGNORED):
        places = list(run)
        tokens = "|".join(_shown(encoder, token) for _, (token, _) in places)
        lines.append(f"{'learn' if is_learned else 'see':>7} {places[0][0]:>5}-{places[-1][0]:<5} {tokens}")
    if len(example.input_ids) > MOST_TOKENS:
        lines.append(f"        … and {len(example.input_ids) - MOST_TOKENS} more")
    return "\n".join(lines) + "\n"


def _shown(encoder: Encoder, token: int) -> str:
    """A token's text, on one line."""
    return json.dumps(encoder.tokenizer.decode([token]), ensure_ascii=False)[1:-1]
