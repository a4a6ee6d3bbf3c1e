"""What the API server accepts, freezes and shows. What it refuses: test_crds_refused.py."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from demo.kubectl import GROUP, CommandFailed, Kubectl, wait_until
from finetune_api.v1alpha1.finetunejob import FROZEN
from manifests import DIGEST, FROM_CONFIG, FULL, MINIMAL, OF_JOB, S3, SERVE_URI, TRAIN, deployment, job, would_store

pytestmark = pytest.mark.apiserver

BACKENDS: dict[str, dict[str, Any]] = {
    "kubernetes": {},
    "vertex": {"project": "p", "location": "europe-west4", "stagingUri": "gs://rows/team"},
    "openai": {"secretRef": {"name": "openai"}},
}


NEEDED = {name: {"rewards": [{"exactMatch": {}}]} for name in ("ppo", "grpo")}
"""Of the methods that need a setting."""


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="minimal"),
        pytest.param(FULL, id="every field"),
        pytest.param({"baseModel": {"uri": "s3://models/base", "digest": DIGEST}}, id="base in s3"),
        pytest.param({"baseModel": {"jobRef": {"name": "other"}, "secretRef": S3}}, id="base of another job"),
        pytest.param({"baseModel": {"fromConfig": FROM_CONFIG}, "method": {"cpt": {}}}, id="base from a config"),
        pytest.param({"dataset": {"train": {"configMap": {"name": "a", "key": "b"}}}}, id="rows in a ConfigMap"),
        pytest.param(
            {"dataset": {"train": {"persistentVolumeClaim": {"claimName": "a", "path": "b"}}}}, id="rows on a volume"
        ),
        pytest.param({"dataset": {"train": TRAIN, "split": {"validation": 0.1, "test": 0.1}}}, id="split"),
        *(
            pytest.param({"method": {method: NEEDED.get(method, {})}}, id=f"method {method}")
            for method in ("sft", "cpt", "dpo", "kto", "orpo", "reward", "ppo", "grpo", "classification")
        ),
        pytest.param(
            {"method": {"dpo": {"beta": 0.1, "lossTypes": ["Sigmoid", "Sft"], "lossWeights": [1, 0.5]}}}, id="dpo, set"
        ),
        *(
            pytest.param({"adapter": {"type": adapter}}, id=f"adapter {adapter}")
            for adapter in (
                "Full",
                "LoRA",
                "QLoRA",
                "DoRA",
                "QDoRA",
                "RsLoRA",
                "LoraPlus",
                "IA3",
                "Prefix",
                "Prompt",
            )
        ),
        *(pytest.param({"backend": {name: fields}}, id=f"backend {name}") for name, fields in BACKENDS.items()),
    ],
)
def test_accepted_jobs(cluster: Kubectl, group: str, spec: dict[str, Any]) -> None:
    stored = would_store(cluster, job(group, **spec))["spec"]
    asked = json.loads(json.dumps(MINIMAL | spec))
    assert contains(stored, asked), "nothing may be dropped"
    assert stored.keys() - asked.keys() <= {"suspend", "cancel"}, "defaults exist for booleans only"


def contains(stored: Any, asked: Any) -> bool:
    """Whether everything asked for was stored; a default may stand beside it."""
    if isinstance(asked, dict):
        return isinstance(stored, dict) and all(k in stored and contains(stored[k], v) for k, v in asked.items())
    return bool(stored == asked)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"adapter": {"jobRef": {"name": "job"}}}, id="of a job"),
        pytest.param(SERVE_URI, id="by address"),
        *(
            pytest.param(
                {"adapter": {"jobRef": {"name": "job"}}, "server": {"runtime": {runtime: {}}}}, id=f"runtime {runtime}"
            )
            for runtime in ("transformers", "vllm")
        ),
        *(
            pytest.param(
                {"adapter": {"providerModel": "ft:x"}, "server": {"runtime": {"provider": provider}}}, id=f"of {name}"
            )
            for name, provider in (
                ("OpenAI", {"openai": {}}),
                (
                    "a service",
                    {"openai": {"baseUrl": "http://vllm.team:8000/v1", "baseModel": "b", "completions": "Chat"}},
                ),
                ("Vertex AI", {"vertex": {"project": "acme", "location": "us-central1"}}),
            )
        ),
        pytest.param(
            {
                "adapter": {"jobRef": {"name": "job"}},
                "traffic": {
                    "model": "bot",
                    "split": [
                        {"adapter": "Base", "weight": 10},
                        {"adapter": "Self", "weight": 85},
                        *({"adapter": f"other-{n}", "weight": 1} for n in range(5)),
                        {"adapter": "later", "weight": 0},
                    ],
                    "stickyHeader": "X-Session-Id",
                },
            },
            id="a split",
        ),
        pytest.param(
            {"adapter": {"jobRef": {"name": "job"}}, "mode": "Merged", "rollout": {"steps": [1]}, "autoscaling": {}},
            id="reserved settings",
        ),
    ],
)
def test_accepted_deployments(cluster: Kubectl, group: str, spec: dict[str, Any]) -> None:
    assert contains(would_store(cluster, deployment(group, **spec))["spec"], spec)


ROOT = Path(__file__).parents[2]
WRITTEN = [
    *(
        pytest.param(path.read_text(), id=f"{path.parent.name}/{path.name}")
        for path in [*ROOT.glob("examples/*/*.yaml"), *ROOT.glob("charts/*/files/*.yaml")]
    ),
    *(
        pytest.param(text, id=f"{page.name}: {re.findall('name: (.*)', text)[0]}")
        for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
        for text in re.findall(r"^```yaml\n(apiVersion:.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    ),
]


def test_something_is_written() -> None:
    assert len(WRITTEN) >= 7


@pytest.mark.parametrize("text", WRITTEN)
def test_what_examples_and_docs_show_is_accepted(cluster: Kubectl, group: str, text: str) -> None:
    cluster("apply", "--dry-run=server", "-f", "-", stdin=text.replace(f"apiVersion: {GROUP}", f"apiVersion: {group}"))


def test_cancel_cannot_be_unset(namespace: Kubectl, group: str) -> None:
    namespace.apply(job(group))
    namespace.apply(job(group, cancel=True))
    with pytest.raises(CommandFailed, match=r"spec\.cancel cannot be unset; create a new job"):
        namespace.apply(job(group, cancel=False))


CHANGES: dict[str, dict[str, Any]] = {
    "baseModel": {"uri": "hf://Qwen/Qwen3-4B"},
    "dataset": {"train": {"uri": "s3://data/other.jsonl"}},
    "method": {"dpo": {"beta": 0.2}},
    "adapter": {"type": "LoRA", "rank": 4},
    "training": {"maxSteps": 7},
    "evaluation": {"metrics": ["Loss"]},
    "tracking": {"tensorboard": {}},
    "output": {"uri": "s3://models/team-b"},
    "backend": {"vertex": BACKENDS["vertex"]},
    "activeDeadlineSeconds": {"": 60},
    "maxRetries": {"": 1},
}


def change(field: str) -> Any:
    """Another value of a field."""
    return CHANGES[field].get("", CHANGES[field])


def start(namespace: Kubectl, group: str) -> None:
    """Write startTime, as the operator does when it freezes the configuration."""
    patch = json.dumps({"status": {"startTime": "2026-01-02T03:04:05Z"}})
    namespace("patch", f"finetunejobs.{group}", "job", "--subresource=status", "--type=merge", "-p", patch)


def test_there_is_a_change_for_every_frozen_field() -> None:
    assert set(CHANGES) == set(FROZEN)


@pytest.mark.parametrize("field", FROZEN)
def test_a_field_is_free_before_the_start_and_frozen_after(namespace: Kubectl, group: str, field: str) -> None:
    namespace.apply(job(group))
    namespace.apply(job(group, **{field: change(field)}))
    namespace.apply(job(group))
    start(namespace, group)
    with pytest.raises(CommandFailed, match=rf"spec\.{field} is frozen since the job has started"):
        namespace.apply(job(group, **{field: change(field)}))


def test_a_frozen_field_cannot_be_removed(namespace: Kubectl, group: str) -> None:
    namespace.apply(job(group, training={"maxSteps": 7}))
    start(namespace, group)
    with pytest.raises(CommandFailed, match=r"spec\.training is frozen"):
        namespace.apply(job(group))


@pytest.mark.parametrize(
    "spec",
    [{"suspend": True}, {"cancel": True}, {"ttlSecondsAfterFinished": 60}, {"deploy": {"name": "bot"}}],
    ids=lambda spec: next(iter(spec)),
)
def test_a_field_still_changes_after_the_start(namespace: Kubectl, group: str, spec: dict[str, Any]) -> None:
    namespace.apply(job(group, **FULL))
    start(namespace, group)
    namespace.apply(job(group, **{**FULL, **spec}))
    assert contains(namespace.get(f"finetunejobs.{group}", "job")["spec"], spec)


def test_nobody_writes_a_status_through_the_object(namespace: Kubectl, group: str) -> None:
    namespace.apply({**job(group), "status": {"state": "Complete"}})
    assert "status" not in namespace.get(f"finetunejobs.{group}", "job")


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("finetunejob", "Fine-tunes a language model"),
        ("finetunejob.spec.training.learningRate", "Peak learning rate"),
        ("finetunejob.spec.evaluation.gate.beats", "bootstrap"),
        ("finetunejob.status.attempts.outcome", "Succeeded, or the reason"),
        ("adapterdeployment.spec.adapter.digest", "sha256"),
    ],
)
def test_kubectl_explains(cluster: Kubectl, group: str, field: str, says: str) -> None:
    def explanation() -> str | None:
        try:
            return cluster("explain", field, f"--api-version={group}/v1alpha1")
        except CommandFailed:  # the OpenAPI document follows the definition after a moment
            return None

    assert says in wait_until(f"kubectl explain {field}", explanation, 30)


def test_kubectl_get_shows_the_columns(namespace: Kubectl, group: str) -> None:
    namespace.apply(job(group), deployment(group, **OF_JOB))
    status = {"state": "Training", "method": "sft/LoRA", "progress": "42%", "loss": "1.23", "eta": "12m"}
    patch = json.dumps({"status": status})
    namespace("patch", f"finetunejobs.{group}", "job", "--subresource=status", "--type=merge", "-p", patch)
    header, row = namespace("get", f"finetunejobs.{group}").splitlines()
    assert header.split() == ["NAME", "METHOD", "STATE", "PROGRESS", "LOSS", "ETA", "AGE"]
    assert row.split()[:-1] == ["job", "sft/LoRA", "Training", "42%", "1.23", "12m"]
    assert namespace("get", f"finetunejobs.{group}", "-o", "wide").split()[7:11] == [
        "BASE", "BACKEND", "ARTIFACT", "MESSAGE",
    ]  # fmt: skip
    assert namespace("get", f"adapterdeployments.{group}").split()[:6] == [
        "NAME", "MODEL", "STATE", "READY", "URL", "AGE",
    ]  # fmt: skip
