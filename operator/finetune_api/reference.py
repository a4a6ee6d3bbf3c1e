"""CustomResourceDefinitions -> docs/reference.md: every object of a kind with its fields, what they mean, and the rules.

Reads what :mod:`finetune_api.crd` generates, so that page and API server say the same.
"""

from collections.abc import Iterator

from finetune_api import API_VERSION
from finetune_api.crd import Schema

HEADER = """<!-- Generated from operator/finetune_api by `python -m finetune_api`; do not edit. -->

# API reference

Every field of both kinds, in the words of `kubectl explain`. A field marked *required* must be there; every other one may
be left out. What a job decided about fields left out stands in its `status.plan.choices`.
"""


def page(definitions: list[Schema]) -> str:
    """The whole page."""
    return "\n".join([HEADER, *(line for definition in definitions for line in _kind(definition))])


def _kind(definition: Schema) -> Iterator[str]:
    names = definition["spec"]["names"]
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    yield f"## {names['kind']}\n"
    yield f"`apiVersion: {API_VERSION}`, short name `{names['shortNames'][0]}`. {schema['description']}\n"
    yield from _rules(schema)
    for name, child in schema["properties"].items():
        yield from _objects(child, name)


def _objects(schema: Schema, path: str) -> Iterator[str]:
    """A section per object that has fields, in the order in which they are written."""
    properties = schema.get("properties")
    if properties and not _is_name(schema):
        yield f"### {path}\n"
        yield f"{schema['description']}\n"
        yield "| Field | Type | Meaning |\n|---|---|---|"
        required = schema.get("required", [])
        for name, child in properties.items():
            yield f"| `{name}` | {_type(child, name in required)} | {_cell(child['description'])} |"
        yield ""
        yield from _rules(schema)
        for name, child in properties.items():
            yield from _objects(_item(child), f"{path}.{name}{'[]' if child['type'] == 'array' else ''}")


def _rules(schema: Schema) -> Iterator[str]:
    sentences: dict[str, list[str]] = {}  # what is said of several fields is said once
    for rule in schema.get("x-kubernetes-validations", []):
        subject, _, sentence = rule["message"].partition(" ")
        sentences.setdefault(sentence, []).append(subject)
    if sentences:
        yield "The API server refuses it otherwise:\n"
        yield "\n".join(f"- {', '.join(subjects)} {sentence}" for sentence, subjects in sentences.items()) + "\n"


def _is_name(schema: Schema) -> bool:
    """A reference: an object that has nothing but a name."""
    return list(schema.get("properties", {})) == ["name"]


def _item(schema: Schema) -> Schema:
    """The items of a list, else the schema itself."""
    item: Schema = schema.get("items", schema)
    return item


def _type(schema: Schema, required: bool) -> str:
    notes = [_plain_type(schema)]
    if (low := schema.get("minimum")) is not None or schema.get("maximum") is not None:
        notes.append(_range(low, schema))
    if isinstance(schema.get("default"), bool):
        notes.append(f"default {str(schema['default']).lower()}")
    if required:
        notes.append("*required*")
    return ", ".join(notes)


def _range(low: float | None, schema: Schema) -> str:
    high = schema.get("maximum")
    above = "above" if schema.get("exclusiveMinimum") else "from"
    below = "below" if schema.get("exclusiveMaximum") else "to"
    parts = [f"{above} {low:g}"] if low is not None else []
    return " ".join([*parts, *([f"{below} {high:,}".replace(",", " ")] if high is not None else [])])


def _plain_type(schema: Schema) -> str:
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_plain_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of {_plain_type(schema['additionalProperties'])}"
    if _is_name(schema):
        return "`{name}`"
    return str(schema["type"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
