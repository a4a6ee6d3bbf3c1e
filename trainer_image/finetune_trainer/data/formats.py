"""The shapes a row can have: told apart by their fields, checked, and brought into the form the train stage reads."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from finetune_api.v1alpha1.dataset import Columns
from finetune_trainer.data.findings import Broken, describe

RowFormat = Literal["Messages", "PromptCompletion", "Alpaca", "Text"]
PreparedFormat = Literal["Messages", "PromptCompletion", "Text"]
Row = dict[str, Any]

COLUMNS: dict[RowFormat, dict[str, str]] = {
    "Messages": {"messages": "messages"},
    "PromptCompletion": {"prompt": "prompt", "completion": "completion"},
    "Alpaca": {"prompt": "instruction", "completion": "output"},
    "Text": {"text": "text"},
}
"""Per format: the names of spec.dataset.columns that concern it, and what they are without it."""
METHOD_FORMATS: dict[str, tuple[RowFormat, ...]] = {"sft": ("Messages", "PromptCompletion", "Alpaca"), "cpt": ("Text",)}
"""What each method learns from, in the order in which formats are looked for."""
ROLES = ("system", "user", "assistant")

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
    return next((name for name in order if all(column in row for column in names(name, columns).values())), None)


def names(format_: RowFormat, columns: Columns) -> dict[str, str]:
    """Our names of a format's columns, and the dataset's."""
    return {ours: getattr(columns, ours) or theirs for ours, theirs in COLUMNS[format_].items()}


def foreign_columns(format_: RowFormat, columns: Columns) -> list[str]:
    """Columns that are named but that the format has not."""
    return sorted(set(columns.model_dump(exclude_none=True)) - set(COLUMNS[format_]))


def prepared_format(format_: RowFormat) -> PreparedFormat:
    """The shape of the prepared rows."""
    return "PromptCompletion" if format_ == "Alpaca" else format_


def canonical(row: Row, format_: RowFormat, columns: Columns, labels: frozenset[str]) -> Row:
    """The row as the train stage reads it. Raises Broken. With ``labels``, its answer must be one of them."""
    if format_ == "Text":
        return {"text": _text(row, names(format_, columns)["text"])}
    prepared, answer, field = READERS[format_](row, names(format_, columns))
    if labels and answer.strip() not in labels:
        raise Broken(field, describe(answer), f"one of the {len(labels)} evaluation.labels")
    return prepared


def _messages(row: Row, names: Mapping[str, str]) -> tuple[Row, str, str]:
    field = names["messages"]
    messages = row.get(field)
    if not isinstance(messages, list) or not messages:
        raise Broken(field, describe(messages) if field in row else "nothing", "a list of messages")
    if row.get("tools"):
        raise Broken("tools", describe(row["tools"]), "no tools: tool calls are not supported yet")
    prepared: list[Row] = []
    for place, message in enumerate(messages):
        where = f"{field}[{place}]"
        prepared.append(_message(message, where, _next_roles(prepared)))
    last = prepared[-1]
    if last["role"] != "assistant":
        raise Broken(f"{field}[{len(prepared) - 1}].role", last["role"], "assistant: the last message is the answer")
    return {"messages": prepared}, last["content"], f"{field}[{len(prepared) - 1}].content"


def _message(message: Any, where: str, allowed: tuple[str, ...]) -> Row:
    if not isinstance(message, dict):
        raise Broken(where, describe(message), "an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        found = "nothing" if "role" not in message else describe(role)
        raise Broken(f"{where}.role", found, f"one of {', '.join(ROLES)}")
    if role not in allowed:
        raise Broken(f"{where}.role", role, " or ".join(allowed))
    unsupported = sorted(key for key in message if key not in ("role", "content") and message[key])
    if unsupported:
        raise Broken(f"{where}.{unsupported[0][:40]}", describe(message[unsupported[0]]), "only role and content")
    return {"role": role, "content": _text(message, "content", f"{where}.content")}


def _next_roles(before: list[Row]) -> tuple[str, ...]:
    """A system message may come first; then user and assistant take turns."""
    if not before:
        return ("system", "user")
    return ("assistant",) if before[-1]["role"] == "user" else ("user",)


def _prompt_completion(row: Row, names: Mapping[str, str]) -> tuple[Row, str, str]:
    prompt, completion = _text(row, names["prompt"]), _text(row, names["completion"])
    return {"prompt": prompt, "completion": completion}, completion, names["completion"]


def _alpaca(row: Row, names: Mapping[str, str]) -> tuple[Row, str, str]:
    instruction, output = _text(row, names["prompt"]), _text(row, names["completion"])
    context = row.get("input") or ""
    if not isinstance(context, str):
        raise Broken("input", describe(context), "a string")
    template = ALPACA_WITH_INPUT if context.strip() else ALPACA
    prompt = template.format(instruction=instruction, input=context)
    return {"prompt": prompt, "completion": output}, output, names["completion"]


READERS: dict[str, Callable[[Row, Mapping[str, str]], tuple[Row, str, str]]] = {
    "Messages": _messages,
    "PromptCompletion": _prompt_completion,
    "Alpaca": _alpaca,
}
"""Per format with answers: the prepared row, its answer, and the field that holds it."""


def _text(container: Row, key: str, where: str = "") -> str:
    if key not in container:
        raise Broken(where or key, "nothing", "a non-empty string")
    value = container[key]
    if not isinstance(value, str) or not value.strip():
        raise Broken(where or key, describe(value), "a non-empty string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Broken(where or key, "half of a surrogate pair", "text that can be written as UTF-8") from None
    return value
