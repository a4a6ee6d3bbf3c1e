"""Objects of both kinds as a user writes them, for the tests on a real API server."""

import json
from typing import Any

from demo.kubectl import Kubectl, Object

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
        "fusedKernels": True,
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

OF_JOB: dict[str, Any] = {"adapter": {"jobRef": {"name": "job"}}}


def job(group: str, name: str = "job", **spec: Any) -> Object:
    """A minimal FineTuneJob; keywords replace members of its spec, None removes them."""
    merged = {key: value for key, value in (MINIMAL | spec).items() if value is not None}
    return {"apiVersion": f"{group}/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}, "spec": merged}


def deployment(group: str, name: str = "bot", **spec: Any) -> Object:
    """An AdapterDeployment with this spec."""
    return {"apiVersion": f"{group}/v1alpha1", "kind": "AdapterDeployment", "metadata": {"name": name}, "spec": spec}


def would_store(kubectl: Kubectl, manifest: Object) -> Object:
    """What kubectl apply would store, defaults included; nothing is stored. Raises CommandFailed with the refusal."""
    found: Object = json.loads(
        kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest))
    )
    return found
