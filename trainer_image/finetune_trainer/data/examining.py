"""One pass over the prepared files, held-out ones first: rows counted in tokens by the encoder the train stage uses, looked
through, compared with what is held out, and left out where the dataset says so."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import Quality
from finetune_trainer.chat_template import Refused
from finetune_trainer.data.classes import shown
from finetune_trainer.data.contamination import RUN, Guarded
from finetune_trainer.data.fields import Row
from finetune_trainer.data.findings import Broken, Findings
from finetune_trainer.data.measuring import Lengths, length
from finetune_trainer.data.mixing import Mixing, drawn, merged, too_few
from finetune_trainer.data.progress import Progress
from finetune_trainer.data.sources import HELD_OUT_FIRST, SplitName
from finetune_trainer.data.splits import Prepared, refuse_invalid
from finetune_trainer.data.survey import Survey
from finetune_trainer.data.tokenizing import Remembering, ToolCheck, one_ahead, texts_of
from finetune_trainer.data.words import own_text, runs
from finetune_trainer.encode import ROWS_AT_A_TIME, Encoder, Example, Pair


@dataclass
class Examined:
    """What is known of the prepared rows."""

    lengths: dict[SplitName, Lengths] = field(default_factory=dict)
    surveys: dict[SplitName, Survey] = field(default_factory=dict)
    guarded: list[Guarded] = field(default_factory=list)
    """Held-out splits and suites, each with the training rows that contain a part of it."""
    out_of_range: int = 0
    overlapping: int = 0
    """Training rows that contain a part of any of them."""
    contaminated: int = 0
    """Training rows left out."""
    mixed: Lengths = field(default_factory=Lengths)
    """Training rows that are general text."""


@dataclass(frozen=True)
class Looking:
    """What to look for."""

    encoder: Encoder
    quality: Quality
    labels: frozenset[str]
    """Allowed answers; empty: any."""
    suites: Sequence[Guarded]
    mixing: Mixing | None = None
    """General rows to draw."""


def examine(data: Prepared, looking: Looking, progress: Progress) -> Examined:
    """Every split; files are written anew where rows are left out."""
    found = Examined(guarded=list(looking.suites))
    for split in HELD_OUT_FIRST:
        if split in data.files:
            _split(data, split, looking, found, progress)
            if split != "train":
                found.guarded.append(Guarded(split, map(own_text, _rows(data.files[split]))))
    if data.general is not None and looking.mixing is not None:
        _mix(data, data.general, looking, looking.mixing, found, progress)
    if data.format == "Classification":
        _refuse_unseen_classes(found)
    return found


def _split(data: Prepared, split: SplitName, looking: Looking, found: Examined, progress: Progress) -> None:
    path = data.files[split]
    kept = path.with_suffix(".kept")
    lengths = found.lengths[split] = Lengths()
    survey = found.surveys[split] = Survey(data.rows[split], looking.labels)
    progress.begin(f"examining {split}", data.rows[split])
    before, outside = data.findings.count, found.out_of_range
    with kept.open("wb") as out:
        for line, row, example in _encoded(_batches(path), split, looking.encoder, data.findings):
            progress.step()
            text = own_text(row)
            if _leave_out(text, example, split, looking, found):
                continue
            lengths.add(example)
            survey.add(row, text)
            out.write(line)
    kept.replace(path)
    refuse_invalid(data.findings, looking.quality)
    if not lengths.tokens:
        raise Failure(
            Reason.DATA_INVALID,
            f"no rows are left for {split}: of {data.rows[split]} rows {found.out_of_range - outside} have fewer tokens than "
            f"dataset.quality.minTokens or more than maxTokens, {found.contaminated} contain held-out rows (decontaminate), and "
            f"{data.findings.count - before} are refused by the base model's chat template",
        )


def _mix(data: Prepared, general: Path, looking: Looking, mixing: Mixing, found: Examined, progress: Progress) -> None:
    """Draw general rows until they have their share of the tokens, and set them evenly among the training rows."""
    path, own, lengths = data.files["train"], found.lengths["train"], found.mixed
    wanted, tokens, chosen = mixing.tokens(sum(own.tokens)), 0, general.with_suffix(".drawn")
    progress.begin("drawing general rows")
    with chosen.open("wb") as out:
        for line, row, example in _encoded(
            _grouped(drawn(general, mixing.seed)), "train", looking.encoder, data.findings
        ):
            if tokens >= wanted:
                break
            progress.step()
            text = own_text(row)
            if not _leave_out(text, example, "train", looking, found):
                lengths.add(example)
                found.surveys["train"].add(row, text)
                out.write(line)
                tokens += length(example)
    if tokens < wanted:
        raise too_few(mixing, sum(own.tokens), tokens)
    found.lengths["train"] = _join(path, own, chosen, lengths)
    general.unlink()


def _join(path: Path, own: Lengths, chosen: Path, lengths: Lengths) -> Lengths:
    """Write general rows between those of a prepared file; the lengths of both, in their order."""
    both, kept = Lengths(), path.with_suffix(".kept")
    with path.open("rb") as rows, chosen.open("rb") as others, kept.open("wb") as out:
        for is_general, place in merged(len(own.tokens), len(lengths.tokens)):
            both.take(lengths if is_general else own, place)
            out.write((others if is_general else rows).readline())
    kept.replace(path)
    chosen.unlink()
    return both


def _leave_out(text: str, example: Example | Pair, split: SplitName, looking: Looking, found: Examined) -> bool:
    quality, tokens = looking.quality, length(example)
    if tokens < (quality.min_tokens or 0) or tokens > (quality.max_tokens or tokens):
        found.out_of_range += 1
        return True
    if split != "train" or not found.guarded:
        return False
    said = runs(text, RUN, whole=False)
    met = [guarded.meets(said) for guarded in found.guarded]  # each counts for itself
    found.overlapping += any(met)
    found.contaminated += any(met) and quality.decontaminate is True
    return any(met) and quality.decontaminate is True


def _encoded(
    batches: Iterable[list[bytes]], split: SplitName, encoder: Encoder, findings: Findings
) -> Iterator[tuple[bytes, Row, Example | Pair]]:
    """Line, row and tokens of each row, as it is learned from (train), or as its answer counts; ``findings`` takes those that the base's
    chat template refuses."""
    tools = ToolCheck(encoder.tokenizer, encoder.training_template)
    encoded = one_ahead(partial(_tokenised, lines, split, encoder) for lines in batches)
    for number, (line, row, example) in enumerate(chain.from_iterable(encoded), 1):
        if isinstance(example, Refused):
            found = f"messages that the base model's chat template refuses ({example.why})"
            findings.add(f"data/{split}.jsonl", f"row {number}", Broken("", found, "messages it writes"))
            continue
        tools.check(row)
        yield line, row, example


def _tokenised(
    lines: list[bytes], split: SplitName, encoder: Encoder
) -> list[tuple[bytes, Row, Example | Pair | Refused]]:
    rows = [json.loads(line) for line in lines]
    tokenizer = Remembering(encoder.tokenizer, [text for row in rows for text in texts_of(row)])
    knowing = replace(encoder, tokenizer=tokenizer)
    is_train = split == "train"
    return [(line, row, _measured(row, knowing, learned=is_train)) for line, row in zip(lines, rows, strict=True)]


def _measured(row: Row, encoder: Encoder, *, learned: bool) -> Example | Pair | Refused:
    try:
        return encoder.measured(row, learned=learned)
    except Refused as refused:
        return refused


def _batches(path: Path) -> Iterator[list[bytes]]:
    with path.open("rb") as file:
        yield from _grouped(file)


def _grouped(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    each = iter(lines)
    while group := list(islice(each, ROWS_AT_A_TIME)):
        yield group


def _rows(path: Path) -> Iterator[Row]:
    return (json.loads(line) for lines in _batches(path) for line in lines)


def _refuse_unseen_classes(found: Examined) -> None:
    """A model cannot be asked for a class it never saw."""
    known = found.surveys["train"].labels
    for split, survey in found.surveys.items():
        if unseen := sorted(set(survey.labels) - set(known)):
            named = ", ".join(map(shown, unseen[:5])) + (", …" if len(unseen) > 5 else "")
            raise Failure(
                Reason.DATA_INVALID,
                f"{split} has {len(unseen)} {'class' if len(unseen) == 1 else 'classes'} that no training row has: {named}; "
                "add training rows of each, take those rows out, or use another dataset.split.seed",
            )
