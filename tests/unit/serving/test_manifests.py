"""The server pod: what each container may do and see."""

from typing import Any

import pytest

from finetune_api.v1alpha1.references import ModelRef, PodOptions, Resources, SecretRef
from finetune_api.v1alpha1.runtime import TransformersRuntime
from finetune_operator.manifests.serving import ServerPool, deployment, whole_cores
from serving_builders import SETTINGS, World, an_adep


def a_pool(**fields: Any) -> ServerPool:
    base = ModelRef(uri="s3://models/base", secret_ref=SecretRef(name="models"))
    known = {"namespace": "team", "pool": "default", "base_model": base, "runtime": TransformersRuntime()}
    return ServerPool(**(known | {"secret_ref": SecretRef(name="adapters"), "service_account": None} | fields))


def pod_of(pool: ServerPool) -> dict[str, Any]:
    spec: dict[str, Any] = deployment(pool, 1, [], SETTINGS)["spec"]["template"]["spec"]
    return spec


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in [*pod["initContainers"], *pod["containers"]]}


def mounted(container: dict[str, Any]) -> dict[str, bool]:
    """Paths, and whether they are read-only."""
    return {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}


def test_every_container_is_restricted_and_has_a_memory_limit() -> None:
    pod = pod_of(a_pool())
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    for container in containers(pod).values():
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["terminationMessagePolicy"] == "File"
        assert "memory" in container["resources"]["limits"]


def test_only_the_gateway_can_report_and_the_server_sees_no_secret() -> None:
    found = {name: mounted(each) for name, each in containers(pod_of(a_pool())).items()}
    secrets = {"/var/run/finetune/secrets/models": True, "/var/run/finetune/secrets/adapters": True}
    assert found == {
        "fetch": {"/etc/finetune": True, "/tmp": False, "/models": False} | secrets,
        "server": {"/tmp": False, "/models": True, "/adapters": True},
        "gateway": {"/etc/finetune": True, "/tmp": False, "/models": True, "/adapters": False}
        | secrets
        | {"/var/run/finetune/token": True},
    }


def test_only_the_gateway_listens_beyond_loopback() -> None:
    found = containers(pod_of(a_pool()))
    assert [name for name, each in found.items() if each.get("ports")] == ["gateway"]
    args = found["server"]["args"]
    assert args[args.index("--host") + 1] == "127.0.0.1"


def test_the_server_outlives_the_gateway() -> None:
    pod = pod_of(a_pool())
    assert containers(pod)["server"]["restartPolicy"] == "Always"
    assert [each["name"] for each in pod["containers"]] == ["gateway"]


def test_gateway_and_server_know_the_same_limits() -> None:
    found = containers(pod_of(a_pool(runtime=TransformersRuntime(max_lora_rank=16))))
    for name in ("server", "gateway"):
        args = found[name]["args"]
        assert args[args.index("--max-lora-rank") + 1] == "16"


def test_the_users_settings_reach_the_pod() -> None:
    runtime = TransformersRuntime(
        image="mine:2", resources=Resources(cpu="3500m"), pod=PodOptions(node_selector={"disk": "ssd"})
    )
    pod = pod_of(a_pool(runtime=runtime, service_account="loader"))
    server = containers(pod)["server"]
    assert server["image"] == "mine:2"
    assert server["resources"]["limits"] == {"cpu": "3500m", "memory": "4Gi"}
    assert {"name": "OMP_NUM_THREADS", "value": "4"} in server["env"]
    assert (pod["serviceAccountName"], pod["nodeSelector"]) == ("loader", {"disk": "ssd"})


@pytest.mark.parametrize(("cpu", "cores"), [("1", 1), ("500m", 1), ("1500m", 2), ("2.5", 3), ("16", 16), ("1k", 1000)])
def test_a_thread_per_core(cpu: str, cores: int) -> None:
    assert whole_cores(cpu) == cores


def test_services_lead_to_the_gateways_of_the_pool() -> None:
    world = World().add(an_adep("one"))
    world.settle()
    for name in ("one", world.pool_of("one")):
        service = world.cache.get("Service", "team", name)
        assert service is not None
        assert service["spec"]["selector"] == {"finetune.dev/pool": world.pool_of("one")}
        assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
