"""How API types are written: the base class and the markers the CRD generator (:mod:`finetune_api.crd`) understands."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """An object of the API: camelCase on the wire, immutable in memory; the string under a field is its description.

    Unknown fields are dropped on reading, as the API server does: an object may have been written under a newer CRD.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    def wire(self) -> dict[str, Any]:
        """The object as it travels: camelCase, JSON types, fields left out stay out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def first_fault(error: ValidationError) -> str:
    """Which field is wrong first, and how; not what it holds, which may be anything."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}"


class NotYet(ApiModel):
    """Reserved: known by name and refused with a sentence, so that its later arrival changes no existing object."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})


def cel(*rules: tuple[str, str]) -> dict[str, Any]:
    """CEL rules of a model, as ``json_schema_extra``; each rule is (expression, message that names the fix)."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


def exactly_one(*fields: str) -> tuple[str, str]:
    """The union rule: exactly one of the optional members is set."""
    members = ", ".join(f"has(self.{field})" for field in fields)
    return f"[{members}].filter(x, x).size() == 1", f"set exactly one of: {', '.join(fields)}"


def at_most_one(*fields: str) -> tuple[str, str]:
    """A union that may be left out."""
    members = ", ".join(f"has(self.{field})" for field in fields)
    return f"[{members}].filter(x, x).size() <= 1", f"set at most one of: {', '.join(fields)}"


RFC_3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")


def _is_a_time(text: str) -> str:
    """Pods say times, too, and the API server looks at their format only when the status is written."""
    if not RFC_3339.fullmatch(text):
        raise ValueError("a time is written as 2026-11-23T12:00:00Z")
    datetime.fromisoformat(text)  # raises ValueError: no such day, no such hour
    return text


SET = {"x-kubernetes-list-type": "set"}
"""A list that says nothing twice."""
MAP_BY_TYPE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}

Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""The name of a Kubernetes object."""

ShortText = Annotated[str, Field(min_length=1, max_length=256)]
MAX_MESSAGE = 4096
"""What the schema takes."""
MAX_SENTENCE = 1024
"""What is written of it: a status is read by people, and etcd keeps all of them."""
Message = Annotated[str, Field(max_length=MAX_MESSAGE)]
Uri = Annotated[str, Field(min_length=1, max_length=1024)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, max_length=40), AfterValidator(_is_a_time)]
"""RFC 3339 in UTC, seconds."""
UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
Quantity = Annotated[str, Field(max_length=32, pattern=rf"^[0-9]+(\.[0-9]+)?({'|'.join(UNITS)})?$")]
"""A Kubernetes quantity, quoted: "2", "500m", "8Gi"."""


def amount(quantity: Quantity) -> float:
    """A quantity as a number: of cores, of bytes."""
    number = quantity.rstrip("".join(UNITS))
    return float(number) * UNITS.get(quantity.removeprefix(number), 1)
