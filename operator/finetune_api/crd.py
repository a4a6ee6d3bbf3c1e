"""Models -> CustomResourceDefinitions: structural schemas, bounded everywhere, descriptions on every field.

Refuses, with the field's path, what a structural schema or CEL's cost budget cannot take: unions, recursion, free-form
values, unbounded lists, maps and strings, fields without a description.
"""

from typing import Any

from finetune_api import GROUP, VERSION
from finetune_api.model import ApiModel
from finetune_api.v1alpha1.adapterdeployment import AdapterDeployment
from finetune_api.v1alpha1.finetunejob import FineTuneJob

Schema = dict[str, Any]
BOUNDS = {"string": "maxLength", "array": "maxItems"}
DROPPED = {"title", "$defs", "discriminator"}


class NotStructural(ValueError):
    """A model that cannot become a bounded structural schema; the message begins with the field's path."""


def structural(node: Schema, defs: dict[str, Schema], path: str = "$", seen: tuple[str, ...] = ()) -> Schema:
    """Inline references, drop nulls and titles, check bounds and descriptions. Raises NotStructural."""
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        if name in seen:
            raise NotStructural(f"{path}: {name} contains itself; a structural schema cannot")
        own = {key: value for key, value in node.items() if key != "$ref"}
        return structural({**defs[name], **own}, defs, path, (*seen, name))
    if "anyOf" in node or "oneOf" in node or "allOf" in node:
        return structural(_only_branch(node, path), defs, path, seen)
    out = {key: value for key, value in node.items() if key not in DROPPED and not (key == "default" and value is None)}
    if "const" in out:
        out["enum"] = [out.pop("const")]
    _exclusive_bounds(out)
    if out.get("type") == "object":
        return _object(out, defs, path, seen)
    if out.get("type") == "array":
        out["items"] = structural(out["items"], defs, f"{path}[]", seen)
    _check_bounded(out, path)
    return out


def _only_branch(node: Schema, path: str) -> Schema:
    branches = [b for key in ("anyOf", "oneOf", "allOf") for b in node.get(key, []) if b != {"type": "null"}]
    if len(branches) != 1:
        raise NotStructural(f"{path}: unions are not structural; use optional members plus a CEL rule")
    own = {key: value for key, value in node.items() if key not in {"anyOf", "oneOf", "allOf"}}
    return {**branches[0], **own}


def _exclusive_bounds(out: Schema) -> None:
    for exclusive, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in out:
            out[plain], out[exclusive] = out[exclusive], True


def _object(out: Schema, defs: dict[str, Schema], path: str, seen: tuple[str, ...]) -> Schema:
    if isinstance(out.get("default"), dict):
        out["default"] = _without_nulls(out["default"])  # the API server refuses a null inside a default
    extra = out.pop("additionalProperties", None)
    if isinstance(extra, dict):
        if "maxProperties" not in out:
            raise NotStructural(f"{path}: a map needs max_length")
        out["additionalProperties"] = structural(extra, defs, f"{path}{{}}", seen)
    elif "properties" in out:
        out["properties"] = {
            name: _described(structural(child, defs, f"{path}.{name}", seen), f"{path}.{name}")
            for name, child in out["properties"].items()
        }
    elif "x-kubernetes-preserve-unknown-fields" not in out:
        out["properties"] = {}
    return out


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(child) for key, child in value.items() if child is not None}


def _described(schema: Schema, path: str) -> Schema:
    if not schema.get("description"):
        raise NotStructural(f"{path}: every field needs a description: put a string under it")
    return schema


def _check_bounded(out: Schema, path: str) -> None:
    kind = out.get("type")
    if kind is None and "enum" not in out:
        raise NotStructural(f"{path}: an untyped field; give it a type")
    if "enum" in out:
        out.setdefault("type", "string")
        return
    bound = BOUNDS.get(str(kind))
    if bound is not None and bound not in out:
        raise NotStructural(f"{path}: an unbounded {kind}; give it max_length")


def openapi(model: type[ApiModel]) -> Schema:
    """The structural schema of a kind: spec and status only, as the API server owns the rest."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return structural(raw, raw.get("$defs", {}), f"${model.__name__}")


def column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> Schema:
    """A printer column; wide ones show with ``-o wide`` only."""
    return {"name": name, "type": kind, "jsonPath": path, **({"priority": 1} if wide else {})}


FINETUNEJOB_COLUMNS = [
    column("Method", ".status.method"),
    column("State", ".status.state"),
    column("Progress", ".status.progress"),
    column("Loss", ".status.loss"),
    column("ETA", ".status.eta"),
    column("Age", ".metadata.creationTimestamp", "date"),
    column("Base", ".status.base", wide=True),
    column("Backend", ".status.backend", wide=True),
    column("Artifact", ".status.artifact.uri", wide=True),
    column("Message", ".status.message", wide=True),
]
ADAPTERDEPLOYMENT_COLUMNS = [
    column("Model", ".status.model"),
    column("State", ".status.state"),
    column("Ready", ".status.readyReplicas", "integer"),
    column("URL", ".status.url"),
    column("Age", ".metadata.creationTimestamp", "date"),
    column("Pool", ".status.pool", wide=True),
    column("Adapter", ".status.adapter.uri", wide=True),
    column("Message", ".status.message", wide=True),
]


def definition(model: type[ApiModel], short: str, columns: list[Schema]) -> Schema:
    """The CustomResourceDefinition of a kind."""
    kind = model.__name__
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["finetune"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": openapi(model)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def definitions() -> list[Schema]:
    """Every CustomResourceDefinition of the group."""
    return [
        definition(FineTuneJob, "ftj", FINETUNEJOB_COLUMNS),
        definition(AdapterDeployment, "adep", ADAPTERDEPLOYMENT_COLUMNS),
    ]
