"""A deploy that could not be served is refused before anything is trained, and again where it is set later."""

from typing import Any

import pytest

from builders import TRAIN, World, a_job, a_summary, condition, message

PROVIDER = {"provider": {"openai": {"baseUrl": "https://models.example/v1"}}}
DELEGATED: dict[str, Any] = {
    "baseModel": {"uri": "openai://gpt"},
    "backend": {"openai": {"secretRef": {"name": "key"}}},
}


def runtime(**choice: Any) -> dict[str, Any]:
    return {"template": {"server": {"runtime": choice}}}


def split(*adapters: str) -> dict[str, Any]:
    return {"template": {"traffic": {"split": [{"adapter": name, "weight": 50} for name in adapters]}}}


@pytest.mark.parametrize(
    ("spec", "deploy", "says"),
    [
        pytest.param({}, runtime(vllm={}), "runtime vllm is not supported yet; supported are", id="vllm"),
        pytest.param({}, runtime(**PROVIDER), "leave server.runtime.provider out.", id="a provider without the model"),
        pytest.param(
            DELEGATED,
            runtime(transformers={"maxLoraRank": 8}),
            "leave server.runtime.transformers out.",
            id="a server without the model",
        ),
        pytest.param({"adapter": {"type": "LoRA", "rank": 128}}, {}, "ranks up to 64, and adapter has 128", id="rank"),
        pytest.param(
            {"adapter": {"type": "DoRA", "rankPattern": {"q_proj": 32}}},
            runtime(transformers={"maxLoraRank": 16}),
            "ranks up to 16, and adapter has 32",
            id="a layer's rank",
        ),
        pytest.param({}, split("Base", "live"), "the job's own adapter Self, not live.", id="a split with itself"),
        pytest.param({}, {"name": "base"}, "set deploy.template.traffic.model to another.", id="the base's name"),
    ],
)
def test_what_no_pool_could_serve_is_refused(spec: dict[str, Any], deploy: dict[str, Any], says: str) -> None:
    world = World(a_job(**spec, deploy={"name": "live", **deploy}))
    status = world.settle()
    assert condition(status, "Accepted") == ("False", "Unsupported")
    assert says in message(status, "Accepted")
    later = World(a_job(**spec))
    later.training()
    later.end_pod(TRAIN, 0, a_summary("Train"))
    later.settle()
    later.patch_spec(deploy={"name": "live", **deploy})
    status = later.settle()
    assert condition(status, "DeployConflict") == ("True", "Unsupported")
    assert says in message(status, "DeployConflict")
    assert later.cache.all("AdapterDeployment") == []


@pytest.mark.parametrize(
    ("spec", "deploy"),
    [
        ({"adapter": {"type": "LoRA", "rank": 128}}, runtime(transformers={"maxLoraRank": 128})),
        ({}, split("Base", "other")),
        (DELEGATED, runtime(**PROVIDER)),
        (DELEGATED, {}),
    ],
    ids=["rank", "split", "provider", "delegated"],
)
def test_what_can_be_served_is_accepted(spec: dict[str, Any], deploy: dict[str, Any]) -> None:
    status = World(a_job(**spec, deploy={"name": "live", **deploy})).settle()
    assert condition(status, "Accepted") == ("True", "Supported")
