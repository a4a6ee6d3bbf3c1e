"""What the API server accepts, and what it refuses for which reason."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from demo.kubectl import GROUP, CommandFailed, Kubectl, Object, wait_until
from finetune_api.v1alpha1.finetunejob import FROZEN

pytestmark = pytest.mark.apiserver

DIGEST = "sha256:" + "a" * 64
S3 = {"name": "s3"}
TRAIN = {"uri": "s3://data/train.jsonl"}
FROM_CONFIG = {
    "architecture": "Llama",
    "vocabularySize": 2048,
    "hiddenSize": 128,
    "intermediateSize": 320,
    "layers": 3,
    "attentionHeads": 4,
}
MINIMAL: dict[str, Any] = {
    "baseModel": {"uri": "hf://Qwen/Qwen3-8B"},
    "dataset": {"train": TRAIN},
    "output": {"uri": "s3://models/team-a"},
}
FULL: dict[str, Any] = {
    "baseModel": {"uri": "hf://Qwen/Qwen3-8B", "revision": "main", "secretRef": {"name": "hf"}},
    "dataset": {
        "train": {**TRAIN, "secretRef": S3},
        "validation": {"configMap": {"name": "rows", "key": "validation.jsonl"}},
        "test": {"persistentVolumeClaim": {"claimName": "rows", "path": "held-out/test.jsonl"}},
        "split": {"seed": 7},
        "format": "Alpaca",
        "columns": {"prompt": "question", "completion": "answer"},
        "quality": {"deduplicate": "Exact", "onInvalidRow": "Drop"},
    },
    "method": {"sft": {"packing": True, "assistantOnlyLoss": False}},
    "adapter": {"type": "QLoRA", "rank": 8, "alpha": 16, "dropout": 0.1, "targetModules": ["q_proj", "v_proj"]},
    "training": {
        "epochs": 2.5,
        "learningRate": 2e-4,
        "batchSize": 16,
        "microBatchSize": 4,
        "maxLength": 4096,
        "scheduler": "Cosine",
        "warmupRatio": 0.03,
        "weightDecay": 0.01,
        "adamBeta2": 0.95,
        "maxGradNorm": 0.3,
        "gradientCheckpointing": True,
        "precision": "BFloat16",
        "seed": 1,
        "checkpointEverySteps": 50,
    },
    "evaluation": {
        "metrics": ["Loss", "Perplexity", "ExactMatch", "Accuracy"],
        "labels": ["yes", "no"],
        "compareWithBase": True,
        "maxNewTokens": 8,
        "gate": [
            {"metric": "Accuracy", "min": 0.8, "beats": ["Base", "MajorityClass"]},
            {"metric": "Loss", "maxRatioToBase": 1.0, "max": 3},
        ],
    },
    "output": {"uri": "s3://models/team-a", "secretRef": S3},
    "deploy": {
        "name": "support-bot",
        "template": {
            "server": {"replicas": 2, "pool": "chat", "runtime": {"transformers": {"maxLoraRank": 16}}},
            "traffic": {"model": "support"},
        },
    },
    "backend": {
        "kubernetes": {
            "gpus": 1,
            "image": "example/trainer:1",
            "resources": {"cpu": "4", "memory": "16Gi"},
            "serviceAccountName": "trainer",
            "pod": {
                "nodeSelector": {"gpu": "a100"},
                "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "imagePullSecrets": [{"name": "pull"}],
                "runtimeClassName": "nvidia",
                "priorityClassName": "batch",
            },
        }
    },
    "suspend": False,
    "activeDeadlineSeconds": 3600,
    "ttlSecondsAfterFinished": 0,
    "maxRetries": 2,
}
SERVE_URI: dict[str, Any] = {
    "adapter": {"uri": "s3://models/team-a/adapter", "digest": DIGEST},
    "server": {"baseModel": {"uri": "hf://Qwen/Qwen3-8B"}},
}


def job(group: str, name: str = "job", **spec: Any) -> Object:
    """A minimal FineTuneJob; keywords replace members of its spec, None removes them."""
    merged = {key: value for key, value in (MINIMAL | spec).items() if value is not None}
    return {"apiVersion": f"{group}/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}, "spec": merged}


def deployment(group: str, name: str = "bot", **spec: Any) -> Object:
    """An AdapterDeployment with this spec."""
    return {"apiVersion": f"{group}/v1alpha1", "kind": "AdapterDeployment", "metadata": {"name": name}, "spec": spec}


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
            pytest.param({"method": {method: {}}}, id=f"method {method}")
            for method in ("sft", "cpt", "dpo", "kto", "orpo", "reward", "ppo", "grpo", "classification")
        ),
        pytest.param({"method": {"dpo": {"beta": 0.1}}}, id="a reserved method with settings"),
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
        *(pytest.param({"backend": {b: {}}}, id=f"backend {b}") for b in ("kubernetes", "vertex", "openai")),
    ],
)
def test_accepted_jobs(namespace: Kubectl, group: str, spec: dict[str, Any]) -> None:
    namespace.apply(job(group, **spec))
    stored = namespace.get(f"finetunejobs.{group}", "job")["spec"]
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
            for runtime in ("transformers", "vllm", "provider")
        ),
        pytest.param(
            {"adapter": {"jobRef": {"name": "job"}}, "mode": "Merged", "rollout": {"steps": [1]}, "autoscaling": {}},
            id="reserved settings",
        ),
    ],
)
def test_accepted_deployments(namespace: Kubectl, group: str, spec: dict[str, Any]) -> None:
    namespace.apply(deployment(group, **spec))
    assert contains(namespace.get(f"adapterdeployments.{group}", "bot")["spec"], spec)


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
def test_what_examples_and_docs_show_is_accepted(namespace: Kubectl, group: str, text: str) -> None:
    namespace(
        "apply", "--dry-run=server", "-f", "-", stdin=text.replace(f"apiVersion: {GROUP}", f"apiVersion: {group}")
    )


def dataset(**members: Any) -> dict[str, Any]:
    return {"dataset": {"train": TRAIN, **members}}


def source(**members: Any) -> dict[str, Any]:
    return {"dataset": {"train": members}}


def base(**members: Any) -> dict[str, Any]:
    return {"baseModel": members}


CLASSES = {"labels": ["a", "b"]}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"epochs": 3}, 'unknown field "spec.epochs"'),
    "unknown field further in": ({"training": {"epoch": 3}}, 'unknown field "spec.training.epoch"'),
    "text for a number": ({"training": {"maxSteps": "many"}}, "spec.training.maxSteps"),
    "number in quotes": ({"training": {"learningRate": "1e-4"}}, "must be of type number"),
    "unknown choice": ({"adapter": {"type": "Lora"}}, '"Full", "LoRA", "QLoRA"'),
    "no base model": ({"baseModel": None}, "spec.baseModel: Required value"),
    "no rows": ({"dataset": {}}, "spec.dataset.train: Required value"),
    "no output": ({"output": None}, "spec.output: Required value"),
    "two bases": (base(uri="hf://a/b", jobRef={"name": "x"}), "set exactly one of: uri, jobRef, fromConfig"),
    "no base": (base(), "set exactly one of: uri, jobRef, fromConfig"),
    "base of unknown kind": (base(uri="Qwen/Qwen3-8B"), "uri starts with hf:// (hf://owner/name) or s3://"),
    "revision in s3": (base(uri="s3://a/b", revision="main"), "revision belongs to an hf:// uri"),
    "digest of a job's base": (base(jobRef={"name": "x"}, digest=DIGEST), "digest belongs to a uri"),
    "not a digest": (base(uri="s3://a/b", digest="sha256:abc"), "spec.baseModel.digest"),
    "secret for a config": (base(fromConfig=FROM_CONFIG, secretRef=S3), "secretRef is for a uri or a jobRef"),
    "from a config without cpt": (base(fromConfig=FROM_CONFIG), "it needs method cpt and adapter Full"),
    "from a config with LoRA": (
        {**base(fromConfig=FROM_CONFIG), "method": {"cpt": {}}, "adapter": {"type": "LoRA"}},
        "it needs method cpt and adapter Full",
    ),
    "heads that do not divide": (
        {**base(fromConfig={**FROM_CONFIG, "attentionHeads": 3}), "method": {"cpt": {}}},
        "hiddenSize must be a multiple of attentionHeads",
    ),
    "key heads that do not divide": (
        {**base(fromConfig={**FROM_CONFIG, "keyValueHeads": 3}), "method": {"cpt": {}}},
        "attentionHeads must be a multiple of keyValueHeads",
    ),
    "two sources": (
        source(uri="s3://a/b", configMap={"name": "a", "key": "b"}),
        "set exactly one of: uri, configMap, persistentVolumeClaim",
    ),
    "no source": (source(), "set exactly one of: uri, configMap, persistentVolumeClaim"),
    "a store to come": (source(uri="gs://a/b"), "other stores are not supported yet"),
    "secret for a ConfigMap": (source(configMap={"name": "a", "key": "b"}, secretRef=S3), "secretRef belongs to a uri"),
    "a path out of the volume": (
        source(persistentVolumeClaim={"claimName": "a", "path": "../b"}),
        "path is relative to the volume's root, without '..'",
    ),
    "validation twice": (dataset(validation=TRAIN, split={"validation": 0.1}), "validation is a source or a share"),
    "test twice": (dataset(test=TRAIN, split={"test": 0.1}), "test is a source or a share of the split, not both"),
    "nothing left to train on": (dataset(split={"validation": 0.5, "test": 0.5}), "must leave rows to train on"),
    "a format to come": (dataset(format="Preference"), "spec.dataset.format: Unsupported value"),
    "two methods": ({"method": {"sft": {}, "cpt": {}}}, "set exactly one of: sft, cpt, dpo, kto, orpo, reward"),
    "no method": ({"method": {}}, "set exactly one of: sft, cpt, dpo"),
    "Full with rank": ({"adapter": {"type": "Full", "rank": 8}}, "leave out rank, alpha, dropout and targetModules"),
    "rank out of range": ({"adapter": {"type": "LoRA", "rank": 1024}}, "spec.adapter.rank"),
    "epochs and steps": ({"training": {"epochs": 1, "maxSteps": 1}}, "set at most one of: epochs, maxSteps"),
    "micro-batch alone": ({"training": {"microBatchSize": 4}}, "be a multiple of microBatchSize"),
    "micro-batch that does not divide": (
        {"training": {"batchSize": 6, "microBatchSize": 4}},
        "be a multiple of microBatchSize",
    ),
    "Accuracy without labels": ({"evaluation": {"metrics": ["Accuracy"]}}, "metric Accuracy needs labels"),
    "gate on Accuracy without labels": (
        {"evaluation": {"gate": [{"metric": "Accuracy", "min": 0.5}]}},
        "a gate on Accuracy needs labels",
    ),
    "a gate that asks for nothing": (
        {"evaluation": {"gate": [{"metric": "Loss"}]}},
        "say what the metric must reach: min, max, maxRatioToBase or beats",
    ),
    "a loss that beats": (
        {"evaluation": {"gate": [{"metric": "Loss", "beats": ["Base"]}]}},
        "beats is for ExactMatch and Accuracy",
    ),
    "gate against a base that is not evaluated": (
        {"evaluation": {"compareWithBase": False, "gate": [{"metric": "Loss", "maxRatioToBase": 1.0}]}},
        "a gate against the base needs compareWithBase: true",
    ),
    "gate that beats a base that is not evaluated": (
        {"evaluation": {**CLASSES, "compareWithBase": False, "gate": [{"metric": "Accuracy", "beats": ["Base"]}]}},
        "a gate against the base needs compareWithBase: true",
    ),
    "output elsewhere": ({"output": {"uri": "/models"}}, "uri is s3://bucket or s3://bucket/folder"),
    "two backends": ({"backend": {"kubernetes": {}, "vertex": {}}}, "set exactly one of: kubernetes, vertex, openai"),
    "no backend": ({"backend": {}}, "set exactly one of: kubernetes, vertex, openai"),
    "several GPUs": ({"backend": {"kubernetes": {"gpus": 2}}}, "spec.backend.kubernetes.gpus"),
    "not a quantity": ({"backend": {"kubernetes": {"resources": {"memory": "16GB"}}}}, "resources.memory"),
    "a deployment name that is no label": ({"deploy": {"name": "Support Bot"}}, "spec.deploy.name"),
    "too much text": (base(uri="hf://" + "x" * 1100), "spec.baseModel.uri: Too long"),
}


@pytest.mark.parametrize(("spec", "says"), REFUSED.values(), ids=REFUSED)
def test_refused_jobs(namespace: Kubectl, group: str, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(CommandFailed) as refused:
        namespace.apply(job(group, **spec))
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["a" * 41, "1st", "a.b"])
@pytest.mark.parametrize("build", [job, lambda group, name: deployment(group, name, **SERVE_URI)], ids=["job", "adep"])
def test_names_that_would_not_fit_a_child_are_refused(namespace: Kubectl, group: str, build: Any, name: str) -> None:
    with pytest.raises(CommandFailed, match=r"metadata\.name must be a DNS label: at most 40 characters"):
        namespace.apply(build(group, name))


OF_JOB: dict[str, Any] = {"adapter": {"jobRef": {"name": "job"}}}
REFUSED_DEPLOYMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no adapter": ({}, "spec.adapter: Required value"),
    "two adapters": (
        {**SERVE_URI, "adapter": {**SERVE_URI["adapter"], "jobRef": {"name": "job"}}},
        "set exactly one of: uri, jobRef",
    ),
    "no digest": ({**SERVE_URI, "adapter": {"uri": "s3://a/b"}}, "uri and digest belong together"),
    "no base": ({"adapter": SERVE_URI["adapter"]}, "adapter.uri needs server.baseModel"),
    "a base beside a job": (
        {**OF_JOB, "server": {"baseModel": {"uri": "hf://a/b"}}},
        "with adapter.jobRef leave server.baseModel out",
    ),
    "two runtimes": (
        {**OF_JOB, "server": {"runtime": {"transformers": {}, "vllm": {}}}},
        "set exactly one of: transformers, vllm, provider",
    ),
    "no replicas": ({**OF_JOB, "server": {"replicas": 0}}, "spec.server.replicas"),
    "unknown mode": ({**OF_JOB, "mode": "merged"}, '"Adapter", "Merged"'),
    "unknown field": ({**OF_JOB, "replicas": 2}, 'unknown field "spec.replicas"'),
}


@pytest.mark.parametrize(("spec", "says"), REFUSED_DEPLOYMENTS.values(), ids=REFUSED_DEPLOYMENTS)
def test_refused_deployments(namespace: Kubectl, group: str, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(CommandFailed) as refused:
        namespace.apply(deployment(group, **spec))
    assert says in str(refused.value)


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
    "output": {"uri": "s3://models/team-b"},
    "backend": {"vertex": {"project": "p"}},
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
