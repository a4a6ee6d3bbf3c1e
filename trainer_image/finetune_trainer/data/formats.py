"""The shapes a row can have: told apart by their fields, checked, and brought into the form the train stage reads."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from finetune_api.artifacts import PreparedFormat
from finetune_api.v1alpha1.dataset import Columns
from finetune_trainer.data.conversations import messages_row, sharegpt_row, vertex_row
from finetune_trainer.data.fields import Row, storable, text
from finetune_trainer.data.findings import Broken, describe
from finetune_trainer.data.preferences import preference_row, unpaired_halves, unpaired_row

RowFormat = Literal[
    "Messages",
    "ShareGPT",
    "Vertex",
    "Preference",
    "Unpaired",
    "Classification",
    "Alpaca",
    "PromptCompletion",
    "Text",
]

COLUMNS: dict[RowFormat, dict[str, str]] = {
    "Messages": {"messages": "messages"},
    "ShareGPT": {"conversations": "conversations"},
    "Vertex": {"contents": "contents"},
    "Preference": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    "Unpaired": {"prompt": "prompt", "completion": "completion", "label": "label"},
    "Classification": {"text": "text", "label": "label", "labels": "labels"},
    "PromptCompletion": {"prompt": "prompt", "completion": "completion"},
    "Alpaca": {"prompt": "instruction", "completion": "output"},
    "Text": {"text": "text"},
}
"""Per format: the names of spec.dataset.columns that concern it, and what they are without it; the most telling first."""
OPTIONAL: dict[RowFormat, tuple[frozenset[str], ...]] = {
    "Preference": (frozenset({"chosen", "rejected"}),),
    "Classification": (frozenset({"text", "label"}), frozenset({"text", "labels"})),
}
"""Formats that can do without some of their columns: any one of these sets tells them."""
ANSWERS: tuple[RowFormat, ...] = ("Messages", "ShareGPT", "Vertex", "Alpaca", "PromptCompletion")
METHOD_FORMATS: dict[str, tuple[RowFormat, ...]] = {
    "sft": ANSWERS,
    "cpt": ("Text",),
    "dpo": ("Preference",),
    "orpo": ("Preference",),
    "reward": ("Preference",),
    "kto": ("Unpaired", "Preference"),
    "grpo": ANSWERS,
    "ppo": ANSWERS,
    "classification": ("Classification",),
}
"""What each method learns from; its formats are looked for before others."""
PREPARED: dict[RowFormat, PreparedFormat] = {
    "Messages": "Messages",
    "ShareGPT": "Messages",
    "Vertex": "Messages",
    "Preference": "Preference",
    "Unpaired": "Unpaired",
    "Classification": "Classification",
    "Alpaca": "PromptCompletion",
    "PromptCompletion": "PromptCompletion",
    "Text": "Text",
}

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
"""The templates of the Stanford Alpaca project."""


def tell(row: Row, columns: Columns, method: str) -> RowFormat | None:
    """The format whose fields a row has, one the method learns from before others; None if there is none."""
    order = sorted(COLUMNS, key=lambda name: name not in METHOD_FORMATS[method])
    return next((name for name in order if _has_columns(row, name, columns)), None)


def _has_columns(row: Row, format_: RowFormat, columns: Columns) -> bool:
    known = names(format_, columns)
    return any(all(known[ours] in row for ours in needed) for needed in OPTIONAL.get(format_, (frozenset(known),)))


def names(format_: RowFormat, columns: Columns) -> dict[str, str]:
    """Our names of a format's columns, and the dataset's."""
    return {ours: getattr(columns, ours) or theirs for ours, theirs in COLUMNS[format_].items()}


def foreign_columns(format_: RowFormat, columns: Columns) -> list[str]:
    """Columns that are named but that the format has not."""
    return sorted(set(columns.model_dump(exclude_none=True)) - set(COLUMNS[format_]))


def methods_of(format_: RowFormat) -> list[str]:
    """The methods that learn from a format."""
    return [method for method, formats in METHOD_FORMATS.items() if format_ in formats]


def prepared_format(format_: RowFormat, method: str) -> PreparedFormat:
    """The shape of the prepared rows; kto learns from each side of a preference by itself."""
    return "Unpaired" if method == "kto" else PREPARED[format_]


def canonical(row: Row, format_: RowFormat, columns: Columns, labels: frozenset[str]) -> Row:
    """The row as the train stage reads it. Raises Broken. With ``labels``, its answer must be one of them."""
    known = names(format_, columns)
    if format_ in READERS:
        return READERS[format_](row, known)
    prepared, answer, field = ANSWER_READERS[format_](row, known)
    if labels and answer.strip() not in labels:
        raise Broken(field, describe(answer), f"one of the {len(labels)} evaluation.labels")
    return prepared


def prepared_rows(row: Row, format_: RowFormat, method: str) -> list[Row]:
    """What a method learns from a canonical row: the row, or for kto both sides of a preference."""
    return unpaired_halves(row) if method == "kto" and format_ == "Preference" else [row]


def _text_row(row: Row, names: Mapping[str, str]) -> Row:
    return {"text": text(row, names["text"])}


def _classification(row: Row, names: Mapping[str, str]) -> Row:
    """{"text", "label"} or {"text", "labels"} -> {"text", "labels"}; a class may be a number."""
    field = names["labels"] if names["labels"] in row else names["label"]
    stated = row.get(field)
    if field == names["labels"]:
        if not isinstance(stated, list):
            raise Broken(field, describe(stated), "a list of classes")
        places = {f"{field}[{place}]": each for place, each in enumerate(stated)}
    else:
        places = {field: stated if field in row else None}
    labels = [_class(value, where) for where, value in places.items()]
    if len(set(labels)) < len(labels):
        raise Broken(field, "a class twice", "each class once")
    return {"text": text(row, names["text"]), "labels": labels}


def _class(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | str) or not str(value).strip():
        raise Broken(where, describe(value), "a class: a non-empty string, a whole number or a boolean")
    return storable(str(value).strip(), where)


def _prompt_completion(row: Row, names: Mapping[str, str]) -> tuple[Row, str, str]:
    prompt, completion = text(row, names["prompt"]), text(row, names["completion"])
    return {"prompt": prompt, "completion": completion}, completion, names["completion"]


def _alpaca(row: Row, names: Mapping[str, str]) -> tuple[Row, str, str]:
    instruction, output = text(row, names["prompt"]), text(row, names["completion"])
    context = row.get("input") or ""
    if not isinstance(context, str):
        raise Broken("input", describe(context), "a string")
    template = ALPACA_WITH_INPUT if context.strip() else ALPACA
    prompt = template.format(instruction=instruction, input=context)
    return {"prompt": prompt, "completion": output}, output, names["completion"]


READERS: dict[str, Callable[[Row, Mapping[str, str]], Row]] = {
    "Text": _text_row,
    "Preference": preference_row,
    "Unpaired": unpaired_row,
    "Classification": _classification,
}
"""Per format without a single answer: the prepared row."""
ANSWER_READERS: dict[str, Callable[[Row, Mapping[str, str]], tuple[Row, str, str]]] = {
    "Messages": messages_row,
    "ShareGPT": sharegpt_row,
    "Vertex": vertex_row,
    "PromptCompletion": _prompt_completion,
    "Alpaca": _alpaca,
}
"""Per format with answers: the prepared row, its answer, and the field that holds it."""
