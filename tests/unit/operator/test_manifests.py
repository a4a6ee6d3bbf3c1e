"""A FineTuneJob's objects: what the pods may do, what they are given, and that they are told apart by name."""

from typing import Any

import pytest

from builders import SETTINGS, a_job
from finetune_api.pods import JobConfig
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.references import SecretRef
from finetune_operator.backends import BACKENDS
from finetune_operator.manifests.training import Attempt, attempt_job, attempt_name, config_map
from finetune_operator.settings import Settings


def a_config(**spec: Any) -> JobConfig:
    return JobConfig(
        namespace="team",
        name="bot",
        uid="0a1b-2c3d-4e5f",
        spec=FineTuneJobSpec.model_validate(a_job(**spec)["spec"]),
        base_model=ResolvedBaseModel(uri="s3://models/base", secret_ref=SecretRef(name="base")),
        image="trainer@sha256:1",
    )


def pod_of(attempt: Attempt, settings: Settings = SETTINGS, **spec: Any) -> dict[str, Any]:
    manifest: dict[str, Any] = attempt_job(a_config(**spec), attempt, settings)["spec"]["template"]["spec"]
    return manifest


ALL = [Attempt("Prepare", 1), Attempt("Train", 2, 4), Attempt("Collect", 1)]


@pytest.mark.parametrize("attempt", ALL, ids=lambda attempt: attempt.stage)
def test_every_pod_is_restricted_and_has_no_api_token(attempt: Attempt) -> None:
    pod = pod_of(attempt)
    container = pod["containers"][0]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["terminationMessagePolicy"] == "File"
    assert not [env for env in container["env"] if "valueFrom" in env], "no secret in the environment"


def test_a_job_runs_once_and_is_replaced_only_after_a_disruption() -> None:
    spec = attempt_job(a_config(), ALL[1], SETTINGS)["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["podFailurePolicy"]["rules"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize(
    ("attempt", "secrets", "arguments"),
    [
        pytest.param(ALL[0], {"base", "data", "out"}, ["finetune_trainer", "prepare", "--attempt", "1"], id="prepare"),
        pytest.param(
            ALL[1],
            {"base", "out"},
            ["finetune_trainer", "train", "--attempt", "2", "--micro-batch-divisor", "4"],
            id="train sees no dataset",
        ),
        pytest.param(ALL[2], {"out"}, ["finetune_trainer", "collect", "--attempt", "1"], id="collect"),
    ],
)
def test_a_stage_gets_what_it_needs_and_no_more(attempt: Attempt, secrets: set[str], arguments: list[str]) -> None:
    pod = pod_of(attempt)
    mounted = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    assert mounted == secrets
    assert all(volume["secret"]["optional"] for volume in pod["volumes"] if "secret" in volume)
    assert pod["containers"][0]["args"] == arguments
    assert "command" not in pod["containers"][0]


def test_the_secrets_of_tracking_servers_are_mounted_for_train_only() -> None:
    mlflow = {"uri": "https://mlflow.team", "experiment": "bots", "secretRef": {"name": "mlflow"}}
    wandb = {"project": "bots", "secretRef": {"name": "wandb"}}
    for attempt in ALL:
        volumes = pod_of(attempt, tracking={"mlflow": mlflow, "wandb": wandb})["volumes"]
        mounted = {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
        assert (mounted & {"mlflow", "wandb"}) == ({"mlflow", "wandb"} if attempt.stage == "Train" else set())


def test_sources_of_the_namespace_are_mounted_for_prepare_only() -> None:
    dataset = {
        "train": {"configMap": {"name": "rows", "key": "train.jsonl"}},
        "test": {"persistentVolumeClaim": {"claimName": "disk", "path": "held/out.jsonl"}},
        "mix": {"source": {"configMap": {"name": "general", "key": "texts.jsonl"}}, "share": 0.1},
    }
    mounts = {m["name"]: m["mountPath"] for m in pod_of(ALL[0], dataset=dataset)["containers"][0]["volumeMounts"]}
    assert mounts["source-train"] == "/var/run/finetune/sources/train"
    assert mounts["source-test"] == "/var/run/finetune/sources/test"
    assert mounts["source-mix"] == "/var/run/finetune/sources/mix"
    train = pod_of(ALL[1], dataset=dataset)["containers"][0]["volumeMounts"]
    assert not [mount for mount in train if mount["name"].startswith("source")]


def test_reporting_off_leaves_token_and_address_out() -> None:
    pod = pod_of(ALL[1], Settings(trainer_image="t", operator_image="o"))
    assert [env["name"] for env in pod["containers"][0]["env"]] == ["HOME"]
    assert not [volume for volume in pod["volumes"] if volume["name"] == "token"]


def test_the_token_opens_nothing_but_the_report_server() -> None:
    pod = pod_of(ALL[1])
    token = next(volume for volume in pod["volumes"] if volume["name"] == "token")["projected"]["sources"]
    assert [source["serviceAccountToken"]["audience"] for source in token] == ["finetune.dev/report"]
    env = {env["name"]: env["value"] for env in pod["containers"][0]["env"]}
    assert env["KUBEFLOW_TRAINER_SERVER_URL"].endswith("/namespaces/team/finetunejobs/bot/status")


@pytest.mark.parametrize(
    ("backend", "stage", "limits"),
    [
        pytest.param({}, "Train", {"memory": "8Gi"}, id="left out"),
        pytest.param({"gpus": 1}, "Train", {"memory": "64Gi", "nvidia.com/gpu": "1"}, id="gpu"),
        pytest.param({"resources": {"cpu": "2", "memory": "3Gi"}}, "Train", {"cpu": "2", "memory": "3Gi"}, id="asked"),
        pytest.param({"gpus": 4}, "Train", {"memory": "256Gi", "nvidia.com/gpu": "4"}, id="host memory for each gpu"),
        pytest.param({"gpus": 1}, "Prepare", {"memory": "4Gi"}, id="prepare takes no GPU"),
        pytest.param({"resources": {"memory": "64G"}}, "Prepare", {"memory": "64G"}, id="prepare takes what is asked"),
        pytest.param(
            {"resources": {"memory": "900Mi"}}, "Prepare", {"memory": "4Gi"}, id="prepare needs more than that"
        ),
    ],
)
def test_resources(backend: dict[str, Any], stage: Any, limits: dict[str, str]) -> None:
    pod = pod_of(Attempt(stage, 1), backend={"kubernetes": backend})
    assert pod["containers"][0]["resources"]["limits"] == limits


def test_several_gpus_are_as_many_processes_of_one_pod() -> None:
    config = a_config(backend={"kubernetes": {"gpus": 4}})
    (job,) = BACKENDS["kubernetes"](config, Attempt("Train", 1), SETTINGS)
    assert (job["spec"]["completions"], job["spec"].get("completionMode")) == (1, None)
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][4:] == ["--processes", "4"]


def test_several_nodes_are_an_indexed_job_and_find_the_first_pod_by_name() -> None:
    config = a_config(backend={"kubernetes": {"gpus": 8, "nodes": 4}})
    job, service = BACKENDS["kubernetes"](config, Attempt("Train", 2), SETTINGS)
    spec, name = job["spec"], job["metadata"]["name"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert "podFailurePolicy" not in spec, "a pod that is replaced alone waits for ever"
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"] == name
    assert len(attempt_name("n" * 40, config.uid, "Train", 100) + "-63") <= 63, "a host name"
    assert pod["containers"][0]["args"][4:] == [
        *("--processes", "8", "--nodes", "4", "--first-node", f"{name}-0.{name}"),
    ]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["metadata"]["ownerReferences"] == job["metadata"]["ownerReferences"]
    (prepare,) = BACKENDS["kubernetes"](config, Attempt("Prepare", 1), SETTINGS)
    assert prepare["spec"]["completions"] == 1


def test_the_configuration_is_immutable_and_says_what_was_written() -> None:
    config = a_config(training={"maxSteps": 5})
    manifest = config_map(config, SETTINGS)
    assert manifest["immutable"] is True
    assert JobConfig.model_validate_json(manifest["data"]["job.json"]) == config
    assert manifest["metadata"]["ownerReferences"][0]["controller"] is True


def test_names_fit_a_label_and_differ_by_uid() -> None:
    names = {attempt_name("n" * 40, uid, "Prepare", 100) for uid in ("aaaaaa-1", "bbbbbb-1")}
    assert len(names) == 2
    assert max(map(len, names)) <= 63


def test_the_table_of_backends_is_pure() -> None:
    config = a_config()
    for backend in BACKENDS.values():
        assert backend(config, ALL[0], SETTINGS) == backend(config, ALL[0], SETTINGS)
