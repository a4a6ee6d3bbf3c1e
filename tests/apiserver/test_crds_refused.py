"""What the API server refuses, each for the stated reason."""

from typing import Any

import pytest

from demo.kubectl import CommandFailed, Kubectl
from manifests import DIGEST, FROM_CONFIG, OF_JOB, S3, SERVE_URI, TRAIN, deployment, job, would_store

pytestmark = pytest.mark.apiserver


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
    "a tracker without a name": ({"tracking": {}}, "name a tracker: tensorboard: {}, wandb or mlflow"),
    "a tracker that is not there": ({"tracking": {"comet": {}}}, 'unknown field "spec.tracking.comet"'),
    "a project of none": (
        {"tracking": {"wandb": {"project": "a/b"}}},
        "a project of Weights & Biases has at most 128 characters, and none of",
    ),
    "a place to send to without a key": (
        {"tracking": {"wandb": {"project": "a", "uri": "https://wandb.team"}}},
        "set secretRef, or leave uri out",
    ),
    "a place to send to without http": (
        {"tracking": {"wandb": {"project": "a", "uri": "wandb.team", "secretRef": {"name": "wandb"}}}},
        "uri is the http:// or https:// address of a server of Weights & Biases",
    ),
    "a tracking server without http": (
        {"tracking": {"mlflow": {"uri": "mlflow.team:5000", "experiment": "a"}}},
        "uri is the http:// or https:// address of a tracking server, without credentials",
    ),
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
    "rank without a low-rank adapter": ({"adapter": {"type": "IA3", "rank": 8}}, "belong to adapter LoRA, QLoRA"),
    "general text for answers": (
        dataset(mix={"source": TRAIN, "share": 0.1}),
        "dataset.mix keeps general text among raw text",
    ),
    "general text for random weights": (
        {
            **base(fromConfig=FROM_CONFIG),
            **dataset(mix={"source": TRAIN, "share": 0.1}),
            "method": {"cpt": {}},
        },
        "baseModel.fromConfig knows nothing",
    ),
    "nothing but general text": (
        {**dataset(mix={"source": TRAIN, "share": 1.0}), "method": {"cpt": {}}},
        "spec.dataset.mix.share",
    ),
    "virtual tokens of a LoRA": (
        {"adapter": {"type": "LoRA", "virtualTokens": 8}},
        "belongs to adapter Prefix, Prompt",
    ),
    "target modules of a prompt": (
        {"adapter": {"type": "Prompt", "targetModules": ["q_proj"]}},
        "targetModules belongs to adapter LoRA",
    ),
    "a ratio without LoRA+": ({"adapter": {"type": "LoRA", "learningRateRatio": 4}}, "belongs to adapter LoraPlus"),
    "initial for IA3": (
        {"adapter": {"type": "IA3", "initial": {"uri": "s3://b/adapter"}}},
        "initial belong to adapter LoRA",
    ),
    "initial and layers": (
        {"adapter": {"type": "LoRA", "layers": [0], "initial": {"uri": "s3://b/adapter"}}},
        "rankPattern, alphaPattern and layers are those of the initial adapter",
    ),
    "new tokens of IA3": (
        {"adapter": {"type": "IA3", "newTokens": ["<tool>"]}},
        "newTokens, initial belong to adapter LoRA",
    ),
    "a new token twice": (
        {"adapter": {"type": "LoRA", "newTokens": ["<tool>", "<tool>"]}},
        "spec.adapter.newTokens[1]: Duplicate value",
    ),
    "a new token with a space": (
        {"adapter": {"type": "LoRA", "newTokens": ["a tool"]}},
        "spec.adapter.newTokens[0]",
    ),
    "new tokens for a preference": (
        {"adapter": {"type": "LoRA", "newTokens": ["<tool>"]}, "method": {"dpo": {}}},
        "adapter.newTokens is for methods sft and cpt",
    ),
    "new tokens for random weights": (
        {**base(fromConfig=FROM_CONFIG), "adapter": {"type": "LoRA", "newTokens": ["<tool>"]}, "method": {"cpt": {}}},
        "baseModel.fromConfig trains its own",
    ),
    "new tokens of an initial adapter": (
        {"adapter": {"type": "LoRA", "newTokens": ["<tool>"], "initial": {"uri": "s3://b/adapter"}}},
        "keeps the vocabulary it has learned with",
    ),
    "initial for a head": (
        {"adapter": {"type": "LoRA", "initial": {"jobRef": {"name": "first"}}}, "method": {"reward": {}}},
        "adapter.initial is for methods sft",
    ),
    "initial from two places": (
        {"adapter": {"type": "LoRA", "initial": {"jobRef": {"name": "first"}, "uri": "s3://b/adapter"}}},
        "exactly one of",
    ),
    "IA3 everywhere": ({"adapter": {"type": "IA3", "targetModules": ["all-linear"]}}, "adapter IA3 needs names"),
    "a prefix without its cache": (
        {"adapter": {"type": "Prefix"}, "training": {"gradientCheckpointing": True}},
        "adapter Prefix lives in the attention cache",
    ),
    "virtual tokens in a pack": (
        {"adapter": {"type": "Prompt"}, "method": {"sft": {"packing": True}}},
        "leave method.sft.packing out",
    ),
    "two sources": (
        source(uri="s3://a/b", configMap={"name": "a", "key": "b"}),
        "set exactly one of: uri, configMap, persistentVolumeClaim",
    ),
    "no source": (source(), "set exactly one of: uri, configMap, persistentVolumeClaim"),
    "a store to come": (source(uri="abfs://a/b"), "uri is s3://bucket/key, gs://bucket/key or"),
    "secret for a ConfigMap": (source(configMap={"name": "a", "key": "b"}, secretRef=S3), "secretRef belongs to a uri"),
    "a path out of the volume": (
        source(persistentVolumeClaim={"claimName": "a", "path": "../b"}),
        "path is relative to the volume's root, without '..'",
    ),
    "validation twice": (dataset(validation=TRAIN, split={"validation": 0.1}), "validation is a source or a share"),
    "test twice": (dataset(test=TRAIN, split={"test": 0.1}), "test is a source or a share of the split, not both"),
    "nothing left to train on": (dataset(split={"validation": 0.5, "test": 0.5}), "must leave rows to train on"),
    "a format that is none": (dataset(format="Conversations"), "spec.dataset.format: Unsupported value"),
    "grpo without a reward": ({"method": {"grpo": {}}}, "set rewards, rewardModel, or both"),
    "ppo without a reward": ({"method": {"ppo": {}}}, "set rewards, rewardModel, or both"),
    "ppo: a range that clips nothing": (
        {"method": {"ppo": {"rewards": [{"exactMatch": {}}], "clipRange": 2}}},
        "spec.method.ppo.clipRange",
    ),
    "two reward models": (
        {"method": {"grpo": {"rewardModel": {"uri": "s3://m/j/adapter", "jobRef": {"name": "j"}}}}},
        "set exactly one of: uri, jobRef",
    ),
    "no address of an artifact": (
        {"method": {"grpo": {"rewardModel": {"uri": "hf://owner/name"}}}},
        "uri is s3://bucket/",
    ),
    "two methods": ({"method": {"sft": {}, "cpt": {}}}, "set exactly one of: sft, cpt, dpo, kto, orpo, reward"),
    "dpo: a weight for no loss": (
        {"method": {"dpo": {"lossTypes": ["Sigmoid"], "lossWeights": [1, 2]}}},
        "one weight for each of them",
    ),
    "dpo: smoothing no loss knows": (
        {"method": {"dpo": {"labelSmoothing": 0.1}}},
        "labelSmoothing is for lossTypes Robust and ExoPair",
    ),
    "no method": ({"method": {}}, "set exactly one of: sft, cpt, dpo"),
    "Full with rank": ({"adapter": {"type": "Full", "rank": 8}}, "leave out what the type does not have"),
    "rank out of range": ({"adapter": {"type": "LoRA", "rank": 1024}}, "spec.adapter.rank"),
    "epochs and steps": ({"training": {"epochs": 1, "maxSteps": 1}}, "set at most one of: epochs, maxSteps"),
    "a rate and a search for one": (
        {"training": {"learningRate": 1e-4, "learningRateSearch": {}}},
        "set at most one of: learningRate, learningRateSearch",
    ),
    "a search that falls": (
        {"training": {"learningRateSearch": {"lowest": 1e-2, "highest": 1e-3}}},
        "lowest must be below highest",
    ),
    "a search of a few steps": ({"training": {"learningRateSearch": {"steps": 3}}}, "learningRateSearch.steps"),
    "micro-batch alone": ({"training": {"microBatchSize": 4}}, "be a multiple of microBatchSize"),
    "a decay of another schedule": (
        {"training": {"scheduler": "Cosine", "decayRatio": 0.1}},
        "decayRatio belongs to scheduler WSD",
    ),
    "more than all steps": (
        {"training": {"scheduler": "WSD", "decayRatio": 0.8, "warmupRatio": 0.3}},
        "together at most 1",
    ),
    "moments Adafactor has not": ({"training": {"optimizer": "Adafactor", "adamBeta2": 0.9}}, "optimizers named Adam"),
    "frozen layers below an adapter": (
        {"adapter": {"type": "LoRA", "frozenLayers": 2}},
        "frozenLayers belongs to adapter Full",
    ),
    "micro-batch that does not divide": (
        {"training": {"batchSize": 6, "microBatchSize": 4}},
        "be a multiple of microBatchSize",
    ),
    "Accuracy without labels": ({"evaluation": {"metrics": ["Accuracy"]}}, "metrics Accuracy and MacroF1 need labels"),
    "gate on Accuracy without labels": (
        {"evaluation": {"gate": [{"metric": "Accuracy", "min": 0.5}]}},
        "a gate on Accuracy or MacroF1 needs labels",
    ),
    "a gate that asks for nothing": (
        {"evaluation": {"gate": [{"metric": "Loss"}]}},
        "say what the metric must reach: min, max, maxRatioToBase, minDeltaVersusBase, maxDropVersusBase, maxDropVersusPrevious or beats",
    ),
    "a loss that beats a majority": (
        {"evaluation": {"gate": [{"metric": "Loss", "beats": ["MajorityClass"]}]}},
        "beats MajorityClass is for ExactMatch and Accuracy",
    ),
    "a latency with a minimum": (
        {"evaluation": {"gate": [{"metric": "LatencyP95Seconds", "min": 1}]}},
        "a gate on it takes max only",
    ),
    "a gate on a suite nobody named": (
        {"evaluation": {"gate": [{"metric": "Loss", "suite": "general", "max": 1}]}},
        "a gate rule's suite is the name of one of evaluation.suites",
    ),
    "a suite with labels": (
        {"evaluation": {**CLASSES, "gate": [{"metric": "Accuracy", "suite": "general", "min": 1}]}},
        "a suite is measured by Loss, Perplexity",
    ),
    "a gate beside a previous adapter nobody named": (
        {"evaluation": {"gate": [{"metric": "Loss", "maxDropVersusPrevious": 0.1}]}},
        "maxDropVersusPrevious needs evaluation.previous",
    ),
    "topP of greedy answers": (
        {"evaluation": {"generation": {"topP": 0.9}}},
        "topP is for sampled answers: set temperature above 0",
    ),
    "answers of two lengths": (
        {"evaluation": {"maxNewTokens": 8, "generation": {"maxNewTokens": 9}}},
        "maxNewTokens is stated twice",
    ),
    "a format nobody stated": (
        {"evaluation": {"metrics": ["FormatCompliance"]}},
        "FormatCompliance needs answerFormat: regex or jsonSchema",
    ),
    "gate against a base that is not evaluated": (
        {"evaluation": {"compareWithBase": False, "gate": [{"metric": "Loss", "maxRatioToBase": 1.0}]}},
        "a gate against the base needs compareWithBase: true",
    ),
    "gate that beats a base that is not evaluated": (
        {"evaluation": {**CLASSES, "compareWithBase": False, "gate": [{"metric": "Accuracy", "beats": ["Base"]}]}},
        "a gate against the base needs compareWithBase: true",
    ),
    "another licence without a name": (
        {"output": {"uri": "s3://models", "card": {"license": "other"}}},
        "license other needs licenseName",
    ),
    "a licence's name without other": (
        {"output": {"uri": "s3://models", "card": {"license": "mit", "licenseName": "Ours"}}},
        "licenseName and licenseLink belong to license other",
    ),
    "output elsewhere": ({"output": {"uri": "/models"}}, "uri is s3://bucket or s3://bucket/folder"),
    "two backends": (
        {"backend": {"kubernetes": {}, "openai": {"secretRef": {"name": "k"}}}},
        "set exactly one of: kubernetes, vertex, openai",
    ),
    "rows staged elsewhere": (
        {"backend": {"vertex": {"project": "p", "location": "europe-west4", "stagingUri": "s3://rows"}}},
        "stagingUri is gs://bucket or gs://bucket/folder",
    ),
    "no backend": ({"backend": {}}, "set exactly one of: kubernetes, vertex, openai"),
    "more GPUs than a node has": ({"backend": {"kubernetes": {"gpus": 17}}}, "spec.backend.kubernetes.gpus"),
    "not a quantity": ({"backend": {"kubernetes": {"resources": {"memory": "16GB"}}}}, "resources.memory"),
    "a deployment name that is no label": ({"deploy": {"name": "Support Bot"}}, "spec.deploy.name"),
    "too much text": (base(uri="hf://" + "x" * 1100), "spec.baseModel.uri: Too long"),
}


@pytest.mark.parametrize(("spec", "says"), REFUSED.values(), ids=REFUSED)
def test_refused_jobs(cluster: Kubectl, group: str, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(CommandFailed) as refused:
        would_store(cluster, job(group, **spec))
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["a" * 41, "1st", "a.b"])
@pytest.mark.parametrize("build", [job, lambda group, name: deployment(group, name, **SERVE_URI)], ids=["job", "adep"])
def test_names_that_would_not_fit_a_child_are_refused(cluster: Kubectl, group: str, build: Any, name: str) -> None:
    with pytest.raises(CommandFailed, match=r"metadata\.name must be a DNS label: at most 40 characters"):
        would_store(cluster, build(group, name))


REFUSED_DEPLOYMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no adapter": ({}, "spec.adapter: Required value"),
    "two adapters": (
        {**SERVE_URI, "adapter": {**SERVE_URI["adapter"], "jobRef": {"name": "job"}}},
        "set exactly one of: uri, jobRef, providerModel",
    ),
    "a provider's model without a provider": (
        {"adapter": {"providerModel": "ft:x"}},
        "adapter.providerModel needs server.runtime.provider",
    ),
    "a provider's model on the default runtime": (
        {"adapter": {"providerModel": "ft:x"}, "server": {"replicas": 2}},
        "adapter.providerModel needs server.runtime.provider",
    ),
    "a provider for an own adapter": (
        {**SERVE_URI, "server": {**SERVE_URI["server"], "runtime": {"provider": {"openai": {}}}}},
        "server.runtime.provider has models of its own",
    ),
    "two providers": (
        {
            "adapter": {"providerModel": "x"},
            "server": {"runtime": {"provider": {"openai": {}, "vertex": {"project": "p", "location": "l"}}}},
        },
        "set exactly one of: openai, vertex",
    ),
    "no provider": (
        {"adapter": {"providerModel": "x"}, "server": {"runtime": {"provider": {}}}},
        "set exactly one of: openai, vertex",
    ),
    "an address that is none": (
        {"adapter": {"providerModel": "x"}, "server": {"runtime": {"provider": {"openai": {"baseUrl": "ftp://x/v1"}}}}},
        "spec.server.runtime.provider.openai.baseUrl",
    ),
    "a base beside a provider's model": (
        {
            "adapter": {"providerModel": "x"},
            "server": {"baseModel": {"uri": "hf://a/b"}, "runtime": {"provider": {"openai": {}}}},
        },
        "with adapter.providerModel it is in runtime.provider",
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
    "weights that miss something": (
        {**OF_JOB, "traffic": {"split": [{"adapter": "Base", "weight": 50}, {"adapter": "Self", "weight": 49}]}},
        "the weights of split must add up to 100",
    ),
    "a share twice": (
        {**OF_JOB, "traffic": {"split": [{"adapter": "Base", "weight": 50}, {"adapter": "Base", "weight": 50}]}},
        "split names each adapter once",
    ),
    "nine shares": (
        {**OF_JOB, "traffic": {"split": [{"adapter": f"a{n}", "weight": 20 if n < 5 else 0} for n in range(9)]}},
        "Too many: 9: must have at most 8 items",
    ),
    "a share below nothing": (
        {**OF_JOB, "traffic": {"split": [{"adapter": "Base", "weight": -1}, {"adapter": "Self", "weight": 101}]}},
        "spec.traffic.split[0].weight",
    ),
    "itself by name": (
        {**OF_JOB, "traffic": {"split": [{"adapter": "bot", "weight": 100}]}},
        "traffic.split calls the AdapterDeployment's own adapter Self",
    ),
    "sticky without a split": (
        {**OF_JOB, "traffic": {"stickyHeader": "X-User"}},
        "stickyHeader belongs to a split",
    ),
    "a header that is none": (
        {**OF_JOB, "traffic": {"stickyHeader": "X User", "split": [{"adapter": "Base", "weight": 100}]}},
        "spec.traffic.stickyHeader",
    ),
    "no replicas": ({**OF_JOB, "server": {"replicas": 0}}, "spec.server.replicas"),
    "unknown mode": ({**OF_JOB, "mode": "merged"}, '"Adapter", "Merged"'),
    "unknown field": ({**OF_JOB, "replicas": 2}, 'unknown field "spec.replicas"'),
}


@pytest.mark.parametrize(("spec", "says"), REFUSED_DEPLOYMENTS.values(), ids=REFUSED_DEPLOYMENTS)
def test_refused_deployments(cluster: Kubectl, group: str, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(CommandFailed) as refused:
        would_store(cluster, deployment(group, **spec))
    assert says in str(refused.value)
