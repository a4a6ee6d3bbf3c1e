"""The generated CustomResourceDefinitions: in step with the models, small, bounded, explained. No cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api import matrix
from finetune_api.__main__ import HEADER, as_template, as_yaml
from finetune_api.crd import NotStructural, definitions, openapi
from finetune_api.model import ApiModel
from finetune_api.reference import page

ROOT = Path(__file__).parents[1]
CHART_CRDS = ROOT / "charts" / "finetune-operator" / "templates" / "crds"
MAX_BYTES = 200_000  # kubectl apply keeps a copy in an annotation, and annotations end at 262,144 bytes
CRDS = {crd["spec"]["names"]["kind"]: crd for crd in definitions()}
BOUNDS = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}

Schema = dict[str, Any]


def fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every schema below ``schema`` with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from fields(child, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from fields(schema["additionalProperties"], f"{path}{{}}")


def version(kind: str) -> dict[str, Any]:
    """The one version of a kind."""
    found: dict[str, Any] = CRDS[kind]["spec"]["versions"][0]
    return found


ALL_FIELDS = {
    path: schema for kind in CRDS for path, schema in fields(version(kind)["schema"]["openAPIV3Schema"], kind)
}


def test_there_are_fields_to_look_at() -> None:
    assert set(CRDS) == {"FineTuneJob", "AdapterDeployment"}
    assert len(ALL_FIELDS) > 200


@pytest.mark.parametrize("crd", CRDS.values(), ids=CRDS)
def test_the_committed_files_are_what_the_models_generate(crd: dict[str, Any]) -> None:
    name = f"{crd['metadata']['name']}.yaml"
    assert (ROOT / "crds" / name).read_text() == HEADER + as_yaml(crd), "run python -m finetune_api (CONTRIBUTING.md)"
    assert (CHART_CRDS / name).read_text() == HEADER + as_template(crd), "run python -m finetune_api (CONTRIBUTING.md)"


def test_the_pages_are_what_the_models_generate() -> None:
    assert (ROOT / "docs" / "reference.md").read_text() == page(list(CRDS.values())), "run python -m finetune_api"
    assert (ROOT / "docs" / "methods.md").read_text() == matrix.page(), "run python -m finetune_api (CONTRIBUTING.md)"


def test_no_file_is_left_from_a_kind_that_is_gone() -> None:
    expected = {f"{crd['metadata']['name']}.yaml" for crd in CRDS.values()}
    assert {path.name for path in (ROOT / "crds").iterdir()} == expected
    assert {path.name for path in CHART_CRDS.iterdir()} == expected


@pytest.mark.parametrize("crd", CRDS.values(), ids=CRDS)
def test_a_definition_stays_small(crd: dict[str, Any]) -> None:
    assert len(as_yaml(crd).encode()) < MAX_BYTES


def is_bounded(schema: Schema) -> bool:
    """Whether a value has a largest size; CEL's cost budget is computed from it."""
    closed = {"enum", "properties", "x-kubernetes-preserve-unknown-fields"} & set(schema)
    return bool(closed) or schema["type"] not in BOUNDS or BOUNDS[schema["type"]] in schema


def test_every_field_has_a_type_and_a_bound() -> None:
    assert [path for path, schema in ALL_FIELDS.items() if "type" not in schema or not is_bounded(schema)] == []


def test_every_field_is_described() -> None:
    undescribed = [
        f"{path}.{name}"
        for path, schema in ALL_FIELDS.items()
        for name, child in schema.get("properties", {}).items()
        if not child.get("description", "").endswith(".")
    ]
    assert undescribed == []


def test_every_rule_names_the_fix() -> None:
    rules = [rule for schema in ALL_FIELDS.values() for rule in schema.get("x-kubernetes-validations", [])]
    assert len(rules) > 20
    assert [rule for rule in rules if len(rule["message"]) < 20] == []


def test_only_unions_and_booleans_of_a_spec_have_defaults() -> None:
    defaults = {path: schema["default"] for path, schema in ALL_FIELDS.items() if "default" in schema}
    spec = {path: value for path, value in defaults.items() if ".spec." in path}
    assert spec
    assert [path for path, value in spec.items() if not isinstance(value, bool | dict)] == []


@pytest.mark.parametrize(
    ("kind", "narrow", "wide"),
    [
        pytest.param(
            "FineTuneJob",
            ["Method", "State", "Progress", "Loss", "ETA", "Age"],
            ["Base", "Backend", "Artifact", "Message"],
            id="jobs",
        ),
        pytest.param(
            "AdapterDeployment",
            ["Model", "State", "Ready", "URL", "Age"],
            ["Pool", "Adapter", "Message"],
            id="deployments",
        ),
    ],
)
def test_kubectl_get_shows(kind: str, narrow: list[str], wide: list[str]) -> None:
    columns = version(kind)["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == narrow
    assert [c["name"] for c in columns if c.get("priority") == 1] == wide


@pytest.mark.parametrize("kind", CRDS)
def test_a_column_shows_a_field_that_exists(kind: str) -> None:
    known = {path.removeprefix(kind) for path, _ in fields(version(kind)["schema"]["openAPIV3Schema"], kind)}
    for column in version(kind)["additionalPrinterColumns"]:
        assert column["jsonPath"] in known | {".metadata.creationTimestamp"}


@pytest.mark.parametrize(("kind", "short"), [("FineTuneJob", "ftj"), ("AdapterDeployment", "adep")])
def test_names(kind: str, short: str) -> None:
    names = CRDS[kind]["spec"]["names"]
    assert names["shortNames"] == [short]
    assert names["categories"] == ["finetune"]
    assert CRDS[kind]["spec"]["group"] == "finetune.dev"
    assert version(kind)["name"] == "v1alpha1"
    assert version(kind)["subresources"] == {"status": {}}


def test_the_template_is_the_definition_behind_two_switches() -> None:
    for crd in CRDS.values():
        lines = as_template(crd).splitlines()
        assert lines[0] == "{{- if .Values.crds.enabled }}"
        assert lines[-1] == "{{- end }}"
        plain = [
            line for line in lines if "{{- " not in line and "annotations:" not in line and "policy: keep" not in line
        ]
        assert yaml.safe_load("\n".join(plain)) == crd


class Unbounded(ApiModel):
    """A model."""

    name: str
    """A name."""


class Undescribed(ApiModel):
    """A model."""

    count: int


class Ambiguous(ApiModel):
    """A model."""

    port: int | bool
    """A port."""


class Free(ApiModel):
    """A model."""

    anything: Any
    """Anything."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param(Unbounded, r"^\$Unbounded\.name: an unbounded string", id="an unbounded string"),
        pytest.param(Undescribed, r"^\$Undescribed\.count: every field needs a description", id="no description"),
        pytest.param(Ambiguous, r"^\$Ambiguous\.port: unions are not structural", id="a union"),
        pytest.param(Free, r"^\$Free\.anything: an untyped field", id="anything"),
    ],
)
def test_the_generator_refuses(model: type[ApiModel], message: str) -> None:
    with pytest.raises(NotStructural, match=message):
        openapi(model)
