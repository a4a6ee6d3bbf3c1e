"""A delegated job on the cluster: the operator, the trainer's prepare pod and the delegate are real; the provider is played in a pod.

The stand-in (tests/openai_stand_in.py) runs in the operator's image, behind a Service, as a service of the cluster would.
"""

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.kubectl import Kubectl, Object, is_true, wait_until
from e2e_jobs import data_config_map, finished, job_when, jsonl, rows, tiny_job
from openai_stand_in import BASE, KEY
from vertex_stand_in import BASE as GEMINI
from vertex_stand_in import LOCATION, PARENT, PROJECT, credentials

pytestmark = pytest.mark.e2e

SYSTEM = "finetune-system"
TESTS = Path(__file__).parents[1]
PORT = 8000
START = f"""
import sys, time
sys.path.insert(0, "/standin")
kind, states = sys.argv[1], sys.argv[2].split(",")
if kind == "openai":
    from openai_stand_in import OpenAI
    service = OpenAI("0.0.0.0", {PORT})
    service.page = 100
    service.run = tuple(states)
else:
    from vertex_stand_in import Vertex
    service = Vertex("0.0.0.0", {PORT})
    service.run = tuple((state, None) for state in states)
while True:
    time.sleep(3600)
"""
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def stand_in(image: str, states: str, kind: str = "openai") -> list[Object]:
    """The provider: its code, its pod, its Service; and the tenant's key."""
    files = {name: (TESTS / name).read_text() for name in ("stand_in.py", f"{kind}_stand_in.py")}
    container = {
        "name": "provider",
        "image": image,
        "command": ["python", "-c", START, kind, states],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "code", "mountPath": "/standin"}],
        "securityContext": RESTRICTED,
    }
    volume = {"name": "code", "configMap": {"name": "standin"}}
    pod_spec = {"containers": [container], "volumes": [volume], "automountServiceAccountToken": False}
    labels = {"app": "provider"}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "standin"}, "data": files},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "provider", "labels": labels}, "spec": pod_spec},
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "provider"},
            "spec": {"selector": labels, "ports": [{"port": PORT}]},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "stringData": {"OPENAI_API_KEY": KEY}},
    ]  # fmt: skip


def delegated(namespace: str, **spec: Any) -> Object:
    """The usual tiny job, at the provider."""
    url = f"http://provider.{namespace}.svc:{PORT}/v1"
    return tiny_job(
        f"openai://{BASE}",
        baseModel={"uri": f"openai://{BASE}"},
        adapter=None,
        training={"epochs": 2},
        evaluation={"gate": [{"metric": "ExactMatch", "min": 0.9, "beats": ["Base"]}]},
        backend={"openai": {"baseUrl": url, "secretRef": {"name": "key"}, "suffix": "tiny"}},
        **spec,
    )


def at_vertex(url: str) -> Object:
    """The same at Vertex AI."""
    settings = {
        "project": PROJECT, "location": LOCATION, "stagingUri": "gs://rows/e2e", "secretRef": {"name": "google"},
        "baseUrl": url, "storageUrl": url,
    }  # fmt: skip
    return tiny_job(
        f"vertex://{GEMINI}",
        baseModel={"uri": f"vertex://{GEMINI}"},
        training={"epochs": 2},
        backend={"vertex": settings},
    )


@pytest.fixture
def operator_image(cluster: Kubectl) -> str:
    """The installed one."""
    found = cluster.within(SYSTEM).get("deployment", "finetune-operator")
    image: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


def start(namespace: Kubectl, image: str, states: str, **spec: Any) -> None:
    """The provider, and then the job."""
    namespace.apply(data_config_map(jsonl(rows())), *stand_in(image, states))
    namespace("wait", "pod/provider", "--for=condition=Ready", "--timeout=120s")
    namespace.apply(delegated(str(namespace.namespace), **spec))


@pytest.fixture
def jobs_at_the_provider(namespace: Kubectl) -> Callable[[], list[Object]]:
    """Asks the stand-in what it has."""

    def ask() -> list[Object]:
        with namespace.port_forward("service/provider", PORT) as port:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/fine_tuning/jobs?limit=100", headers={"Authorization": f"Bearer {KEY}"}
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                data: list[Object] = json.loads(answer.read())["data"]
                return data

    return ask


def test_the_same_yaml_is_trained_at_a_provider(
    namespace: Kubectl, operator_image: str, store: Any, jobs_at_the_provider: Any
) -> None:
    start(namespace, operator_image, "validating_files,queued,running,succeeded")
    job = finished(namespace, "tiny")
    status = job["status"]
    assert is_true(job, "Complete"), status
    model = f"ft:{BASE}:org:tiny:1"
    assert status["artifact"]["kind"] == "Endpoint"
    assert status["artifact"]["provider"]["model"] == model
    assert status["provider"] == {"job": "ftjob-1", "state": "Succeeded", "billedTokens": 4321}
    assert (status["backend"], status["progress"], status["loss"]) == ("openai", "100%", "0.100")
    assert [each["step"] for each in status["checkpoints"]] == [5, 10]
    assert status["evaluation"]["base"] == {"ExactMatch": 0}
    assert status["evaluation"]["tuned"] == {"ExactMatch": 1}
    assert is_true(job, "GatePassed")
    bucket, _, key = status["artifact"]["uri"].removeprefix("s3://").partition("/")
    stored = json.loads(store.get_object(Bucket=bucket, Key=f"{key}/endpoint.json")["Body"].read())
    assert stored["model"] == model
    assert len(jobs_at_the_provider()) == 1
    job_when(namespace, "tiny", "let go", lambda job: not job["metadata"].get("finalizers"), 60)


def test_a_pod_that_is_killed_leads_to_no_second_job(
    namespace: Kubectl, operator_image: str, jobs_at_the_provider: Any
) -> None:
    start(namespace, operator_image, ",".join(["queued", *["running"] * 3, "succeeded"]))
    job_when(namespace, "tiny", "submitted", lambda job: bool(job["status"].get("provider")), 240)
    namespace("delete", "pod", "-l", "finetune.dev/stage=train", "--grace-period=0", "--force")
    job = finished(namespace, "tiny")
    assert is_true(job, "Complete"), job["status"]
    assert [each["status"] for each in jobs_at_the_provider()] == ["succeeded"]


@pytest.mark.parametrize("cascade", ["background", "foreground"])
def test_cancelling_and_deleting_end_it_at_the_provider(
    namespace: Kubectl, operator_image: str, jobs_at_the_provider: Any, cascade: str
) -> None:
    start(namespace, operator_image, "running")
    job_when(namespace, "tiny", "submitted", lambda job: bool(job["status"].get("provider")), 240)
    began = time.monotonic()
    namespace("delete", "finetunejob", "tiny", "--timeout=200s", f"--cascade={cascade}")
    assert time.monotonic() - began < 200
    assert [each["status"] for each in jobs_at_the_provider()] == ["cancelled"]
    wait_until("no delegate", lambda: not namespace.list("pods", "finetune.dev/stage=train"), 60)


def test_a_dry_run_sends_nothing(namespace: Kubectl, operator_image: str, jobs_at_the_provider: Any) -> None:
    namespace.apply(data_config_map(jsonl(rows())), *stand_in(operator_image, "running"))
    namespace("wait", "pod/provider", "--for=condition=Ready", "--timeout=120s")
    job = delegated(str(namespace.namespace))
    job["metadata"]["annotations"] = {"finetune.dev/dry-run": "true"}
    namespace.apply(job)
    status = finished(namespace, "tiny")["status"]
    (complete,) = [each for each in status["conditions"] if each["type"] == "Complete"]
    assert (complete["status"], complete["reason"]) == ("True", "DryRun")
    assert '"suffix": "tiny"' in complete["message"]
    assert "artifact" not in status
    assert jobs_at_the_provider() == []


def test_the_same_yaml_is_trained_at_vertex(namespace: Kubectl, operator_image: str) -> None:
    url = f"http://provider.{namespace.namespace}.svc:{PORT}"
    states = "JOB_STATE_PENDING,JOB_STATE_RUNNING,JOB_STATE_SUCCEEDED"
    secret = {"credentials.json": json.dumps(credentials(f"{url}/token"))}
    namespace.apply(
        data_config_map(jsonl(rows())),
        *stand_in(operator_image, states, "vertex"),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "google"}, "stringData": secret},
    )
    namespace("wait", "pod/provider", "--for=condition=Ready", "--timeout=120s")
    namespace.apply(at_vertex(url))
    job = finished(namespace, "tiny")
    status = job["status"]
    assert is_true(job, "Complete"), status
    made = status["artifact"]["provider"]
    assert (made["kind"], made["endpoint"]) == ("Vertex", f"{PARENT}/endpoints/100")
    assert status["provider"]["billedTokens"] == 4321
    assert status["evaluation"]["tuned"] == {"ExactMatch": 1}
