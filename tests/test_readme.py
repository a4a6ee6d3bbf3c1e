"""README and docs say what is true: YAML parses, commands exist, links lead somewhere, lists are complete. No cluster.

Commands of helm and kubectl are run where these are (marker apiserver); the demo and the example jobs by the end-to-end tests.
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from demo.kubectl import find_tool
from documents import dropped
from finetune_api import pods
from finetune_api.crd import definitions
from finetune_api.matrix import SUPPORTED_ADAPTERS as ADAPTERS
from finetune_api.model import ApiModel, NotYet
from finetune_api.reasons import EXIT_CODES, RETRYABLE, Reason, ServingReason, Stage
from finetune_api.v1alpha1.adapter import AdapterSpec, AdapterType
from finetune_api.v1alpha1.adapterdeployment import AdapterDeployment
from finetune_api.v1alpha1.dataset import DatasetSpec
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob import BackendSpec, FineTuneJob, OutputSpec
from finetune_api.v1alpha1.tracking import TrackingSpec
from finetune_api.v1alpha1.training import MethodSpec
from finetune_operator.manifests import delegate, serving, training
from finetune_operator.reconcile.finetunejob.finalizer import FINALIZER

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCHEMAS = {
    crd["spec"]["names"]["singular"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in definitions()
}
MODELS: dict[str, type[ApiModel]] = {
    "FineTuneJob": FineTuneJob,
    "AdapterDeployment": AdapterDeployment,
    "dataset": DatasetSpec,
    "evaluation": EvaluationSpec,
    "method": MethodSpec,
    "output": OutputSpec,
    "adapter": AdapterSpec,
    "tracking": TrackingSpec,
    "trainerStatus": pods.Report,
    "stage": pods.Summary,
}
"""Which model a block is read with: by its kind, or by a member only that one has."""


def blocks(language: str) -> Iterator[Any]:
    """Fenced blocks of a language, each with the page it is on."""
    for page in PAGES:
        for text in re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            yield pytest.param(text, id=f"{page.name}: {text.strip().splitlines()[0][:40]}")


def commands() -> Iterator[Any]:
    """Commands behind a prompt, continuation lines joined."""
    for block in blocks("console"):
        for line in block.values[0].replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                tool = line.startswith(("$ helm ", "$ kubectl create secret "))
                yield pytest.param(line[2:], id=line[2:60], marks=[pytest.mark.apiserver] if tool else [])


def page(name: str) -> str:
    """A page's text."""
    return (ROOT / "docs" / name).read_text()


def read(document: dict[str, Any]) -> None:
    """Read a document with the model it is for; every field must survive."""
    known = [document.get("kind", ""), *document]
    model = next((MODELS[name] for name in known if name in MODELS), None)
    assert model is not None, f"of no known kind: {sorted(document)}"
    asked = document if issubclass(model, FineTuneJob | AdapterDeployment | pods.Report | pods.Summary) else None
    asked = asked or next(iter(document.values()))
    asked = {name: value for name, value in asked.items() if name not in ("apiVersion", "kind", "metadata")}
    assert dropped(asked, model.model_validate(asked).wire()) == []


def test_there_is_something_to_check() -> None:
    assert len(list(blocks("yaml"))) >= 4
    assert len(list(blocks("json"))) >= 4
    assert len(list(commands())) >= 20


@pytest.mark.parametrize("text", list(blocks("yaml")))
def test_yaml_is_what_the_api_takes(text: str) -> None:
    for document in yaml.safe_load_all(text):
        read(document)


@pytest.mark.parametrize("text", list(blocks("json")))
def test_json_is_what_pods_say(text: str) -> None:
    read(json.loads(text))


def run(*command: str, cwd: Path | str = ROOT) -> str:
    """What a command prints. Raises CalledProcessError."""
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def check_make(words: list[str]) -> None:
    """The target exists; nothing is run."""
    targets = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    assert [
        each for each in targets if not re.search(rf"^{each}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    ] == []
    run("make", "-n", *words[1:])


def check_docker(words: list[str]) -> None:
    """A file that is built exists, and the context is the repository."""
    if words[1] == "build":
        assert (ROOT / words[words.index("-f") + 1]).is_file()
        assert words[-1] == "."


def check_helm(words: list[str]) -> None:
    """The same release renders."""
    at = words.index("--install")
    values = [word for i, flag in enumerate(words) if flag == "--set" for word in ("--set", words[i + 1])]
    assert "kind: Deployment" in run(
        find_tool("helm"), "template", *words[at + 1 : at + 3], *values, "--kube-version", "1.34.0"
    )


def check_kubectl(words: list[str]) -> None:
    """Files, conditions, labels and fields exist; what can run without a cluster, runs."""
    if words[1:3] == ["create", "secret"]:
        files = [word.partition("=")[2] for word in words if word.startswith("--from-file=")]
        with tempfile.TemporaryDirectory() as folder:
            for name in files:
                (Path(folder) / name).write_text("key")
            run(find_tool("kubectl"), *words[1:], "--dry-run=client", "-o", "yaml", cwd=folder)
    if "apply" in words:
        path = words[words.index("-f") + 1]
        assert path == "job.yaml" or (ROOT / path).exists()
    for word in words:
        if word.startswith("--for=condition="):
            assert word.removeprefix("--for=condition=") in {*Stage, "Ready"}
        if word.startswith("jsonpath="):
            assert_field("finetunejob", word.removeprefix("jsonpath={.").removesuffix("}"))
    if words[1] == "patch":
        assert json.loads(words[words.index("-p") + 1]) == {"metadata": {"finalizers": None}}
    if words[1] == "explain":
        kind, _, path = words[2].partition(".")
        assert_field(kind, path)


def assert_field(kind: str, path: str) -> None:
    """The field is in the kind's schema."""
    schema = SCHEMAS[kind]
    for name in path.split("."):
        assert name in schema["properties"], f"{kind} has no field {path}"
        schema = schema["properties"][name]


def check_python(words: list[str]) -> None:
    """Options of the generator exist."""
    usage = run("env", "PYTHONPATH=operator", sys.executable, "-m", "finetune_api", "--help")
    assert [word for word in words if word.startswith("--") and word not in usage] == []


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "docker": check_docker,
    "helm": check_helm,
    "kubectl": check_kubectl,
    "PYTHONPATH=operator": check_python,
    "curl": lambda words: None,  # against a running AdapterDeployment: the end-to-end tests
}


@pytest.mark.parametrize("command", list(commands()))
def test_a_command_can_be_typed_as_it_stands(command: str) -> None:
    words = shlex.split(command, comments=True)
    assert words[0] in CHECKS, f"no check for {words[0]}"
    CHECKS[words[0]](words)


def test_links_lead_somewhere() -> None:
    broken = []
    for each in [*PAGES, ROOT / "CHANGELOG.md"]:
        targets = re.findall(r"\]\(([^)#]+)[^)]*\)", each.read_text())
        local = [target for target in targets if not target.startswith("http")]
        broken += [f"{each.name}: {target}" for target in local if not (each.parent / target).exists()]
    assert broken == []


def rows(text: str) -> dict[str, list[str]]:
    """Table rows by their first cell; a cell may name several things."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| "):
            found |= {name.strip(): cells[1:] for name in cells[0].split(",")}
    return found


def section(text: str, heading: str) -> str:
    """A section's text."""
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_troubleshooting_explains_every_reason() -> None:
    text = page("troubleshooting.md")
    failed = rows(section(text, "Why a job failed"))
    ready = rows(section(text, "Why an AdapterDeployment is not Ready"))
    assert failed.keys() - {"Reason"} == {str(reason) for reason in Reason}
    assert ready.keys() - {"Reason"} == {str(reason) for reason in ServingReason}
    for reason in RETRYABLE:
        assert "Retried" in failed[reason][0], reason


def test_the_pod_contract_lists_every_exit_code() -> None:
    table = {row[0]: (code, row[1]) for code, row in rows(page("pod-contract.md")).items() if code.isdigit()}
    assert {code: int(number) for code, (number, _) in table.items()} == {str(r): n for r, n in EXIT_CODES.items()}
    counted = {code for code, (_, tried) in table.items() if tried.startswith("yes, counted")}
    assert counted == {str(reason) for reason in RETRYABLE}


@pytest.mark.parametrize(
    "constant",
    [
        pods.CONFIG_FILE, pods.SECRETS_DIR, pods.SOURCES_DIR, pods.WORK_DIR, pods.TERMINATION_LOG,
        pods.REPORT_URL_ENV, pods.REPORT_TOKEN_ENV, pods.REPORT_CA_ENV, pods.MODELS_DIR, pods.ADAPTERS_DIR,
        f"{pods.MAX_SUMMARY_BYTES:,} bytes", f"{pods.SECRET_WAIT_SECONDS} s", f"{pods.MAX_REPORT_BYTES // 1024} KiB",
        f"--port {pods.SERVER_PORT}", f"--max-adapters {2 * pods.MAX_POOL_ADAPTERS}",
    ],
)  # fmt: skip
def test_the_pod_contract_names(constant: str) -> None:
    assert constant in page("pod-contract.md")


def test_what_stays_without_the_operator_is_named() -> None:
    said = section(page("providers.md"), "Without the operator")
    assert f"`{FINALIZER}`" in said
    assert "kubectl patch finetunejob" in said
    assert "docs/providers.md#without-the-operator" in (ROOT / "README.md").read_text()


def test_troubleshooting_knows_what_a_quota_on_processors_refuses() -> None:
    gpu = training.default_resources(1)
    ours = (training.SMALL, training.default_resources(0), gpu, serving.SMALL, serving.SERVER, delegate.WAITING)
    assert not [resources for resources in ours if "cpu" in resources["limits"]]
    said = section(page("troubleshooting.md"), "While a job waits")
    assert "`must specify limits.cpu`" in said
    assert f"({gpu['requests']['cpu']} cores for each of its GPUs)" in said


def reserved(model: type[ApiModel]) -> set[str]:
    """Members of a union that are known by name only."""
    return {name for name, field in model.model_fields.items() if NotYet in get_args(field.annotation)}


def test_limits_name_everything_that_is_reserved() -> None:
    table = rows(page("limits.md"))
    assert set(table["Methods"][1].split(", ")) - {"none"} == reserved(MethodSpec)
    assert set(table["Adapters"][1].split(", ")) - {"none"} == set(get_args(AdapterType)) - set(ADAPTERS)
    assert reserved(BackendSpec) == set()
