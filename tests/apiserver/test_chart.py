"""The chart on a real API server: installed, upgraded, uninstalled, and what its rights amount to.

A copy of the chart with an API group and role names of its own is used, so that an installed release stays untouched.
"""

import base64
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from demo.kubectl import CommandFailed, Kubectl, Object, find_tool, wait_until

pytestmark = pytest.mark.apiserver

CHART = Path(__file__).parents[2] / "charts" / "finetune-operator"
GROUP = "finetune.dev"


@dataclass(frozen=True)
class Release:
    """A release of the copied chart in a namespace of its own; its name makes everything it creates unique."""

    kubectl: Kubectl
    chart: Path
    name: str

    @property
    def group(self) -> str:
        """API group of the copy."""
        return f"{self.name}.{GROUP}"

    @property
    def crds(self) -> list[str]:
        """Names of its definitions."""
        return [f"crd/{kind}s.{self.group}" for kind in ("adapterdeployment", "finetunejob")]

    def helm(self, *args: str, values: Object | None = None) -> str:
        """Run helm in the release's namespace. Raises CommandFailed with its complaint."""
        command = [find_tool("helm"), "-n", self.kubectl.namespace, *args]
        text = json.dumps(values) if values is not None else None
        done = subprocess.run(command, input=text, env=self.kubectl.env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CommandFailed(done.stderr.strip())
        return done.stdout

    def apply(self, values: Object | None = None) -> str:
        """Install, or upgrade to these values; the notes."""
        least = ["-f", str(self.chart / "ci" / "default-values.yaml"), "-f", "-"]
        return self.helm("upgrade", "--install", self.name, str(self.chart), *least, values=values or {})

    def exists(self, name: str) -> bool:
        """Whether an object of the release's namespace, or of the cluster, is there."""
        return self.kubectl("get", name, "--ignore-not-found", "-o", "name") != ""

    def may(self, verb: str, resource: str, namespace: str, user: str | None = None) -> bool:
        """Whether the operator's account, or another user, may do this."""
        account = user or f"system:serviceaccount:{self.kubectl.namespace}:{self.name}-finetune-operator"
        kubectl = self.kubectl.within(namespace)
        kind, _, subresource = resource.replace("GROUP", self.group).partition("/")
        done = subprocess.run(
            kubectl.command("auth", "can-i", verb, kind, f"--subresource={subresource}", "--as", account),
            env=kubectl.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() in {"yes", "no"}, done.stderr
        return done.stdout.strip() == "yes"

    def edit(self, path: str, old: str, new: str) -> None:
        """Change the chart, as its next version would."""
        file = self.chart / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


@pytest.fixture
def release(namespace: Kubectl, tmp_path: Path) -> Iterator[Release]:
    """A chart ready to be installed; afterwards nothing of it is left."""
    chart = shutil.copytree(CHART, tmp_path / "finetune-operator")
    found = Release(namespace, chart, f"t-{uuid.uuid4().hex[:8]}")
    for path in chart.rglob("*.yaml"):
        text = path.read_text().replace(GROUP, found.group)
        path.write_text(
            text.replace("finetune-view", f"{found.name}-view").replace("finetune-edit", f"{found.name}-edit")
        )
    yield found
    found.helm("uninstall", found.name, "--ignore-not-found")
    namespace("delete", "--ignore-not-found", "--wait=false", *found.crds)


@pytest.fixture
def other(cluster: Kubectl) -> Iterator[str]:
    """A second namespace."""
    name = f"api-{uuid.uuid4().hex[:8]}"
    cluster("create", "namespace", name)
    yield name
    cluster("delete", "namespace", name, "--wait=false")


def a_job(group: str) -> Object:
    """A FineTuneJob."""
    spec = {
        "baseModel": {"uri": "hf://a/b"},
        "dataset": {"train": {"uri": "s3://a/b"}},
        "output": {"uri": "s3://a"},
    }
    return {"apiVersion": f"{group}/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "job"}, "spec": spec}


def values_with_everything(namespace: str) -> Object:
    """Every optional part."""
    return {
        "watchNamespaces": [namespace],
        "report": {"tls": {"secretName": "cert"}},
        "networkPolicy": {"enabled": True},
        "quickstart": {"enabled": True, "namespaces": [namespace]},
    }


@pytest.mark.parametrize("everything", [False, True], ids=["defaults", "everything on"])
def test_the_api_server_takes_every_object(release: Release, everything: bool) -> None:
    values = values_with_everything(release.kubectl.namespace) if everything else {}
    least = ["-f", str(release.chart / "ci" / "default-values.yaml"), "-f", "-"]
    args = ["--kube-version", "1.34.0", *least]
    manifests = release.helm("template", release.name, str(release.chart), *args, values=values)
    said = release.kubectl("apply", "--dry-run=server", "-f", "-", stdin=manifests).splitlines()
    assert len(said) == manifests.count("\nkind: ")
    assert all(line.endswith("created (server dry run)") for line in said)


def test_definitions_live_with_the_release_and_outlive_it(release: Release) -> None:
    release.apply()
    release.kubectl("wait", "--for=condition=Established", "--timeout=30s", *release.crds)
    release.kubectl.apply(a_job(release.group))

    release.edit(f"templates/crds/finetunejobs.{GROUP}.yaml", "Rows to train on.", "Rows of the next version.")
    release.apply()
    assert "Rows of the next version." in release.kubectl("get", release.crds[1], "-o", "yaml")

    release.helm("uninstall", release.name)
    assert not release.exists(f"deployment/{release.name}-finetune-operator")
    assert release.kubectl.get(f"finetunejobs.{release.group}", "job")["spec"]["output"] == {"uri": "s3://a"}

    release.apply({"crds": {"keep": False}})  # the definitions left behind are taken over again
    release.helm("uninstall", release.name)
    wait_until("the definitions are gone", lambda: not any(map(release.exists, release.crds)), 30)


def test_definitions_can_be_somebody_elses(release: Release) -> None:
    release.apply({"crds": {"enabled": False}})
    assert not any(map(release.exists, release.crds))


def test_what_the_release_creates_is_gone_after_uninstall(release: Release) -> None:
    release.apply(values_with_everything(release.kubectl.namespace))
    mine = [
        f"deployment/{release.name}-finetune-operator",
        f"deployment/{release.name}-finetune-operator-s3",
        f"service/{release.name}-finetune-operator",
        f"clusterrole/{release.name}-finetune-operator",
        f"clusterrole/{release.name}-view",
        f"role/{release.name}-finetune-operator",
        "secret/s3",
    ]
    assert [name for name in mine if not release.exists(name)] == []
    release.helm("uninstall", release.name)
    wait_until("the objects are gone", lambda: not any(map(release.exists, mine)), 30)


def test_every_pod_is_admitted_by_the_restricted_standard(release: Release) -> None:
    release.apply(values_with_everything(release.kubectl.namespace))

    def components() -> bool:
        pods = release.kubectl.list("pods", f"app.kubernetes.io/instance={release.name}")
        return {p["metadata"]["labels"]["app.kubernetes.io/component"] for p in pods} == {"operator", "quickstart-s3"}

    wait_until("a pod of each Deployment was admitted", components, 30)


def test_the_notes_name_the_next_commands(release: Release, other: str) -> None:
    notes = release.apply({"watchNamespaces": [other]})
    assert f"kubectl -n {release.kubectl.namespace} rollout status deployment/{release.name}-finetune-operator" in notes
    assert f"kubectl -n {other} apply -f charts/finetune-operator/files/first-job.yaml" in notes


NEEDED = [
    ("get", "finetunejobs.GROUP"),
    ("patch", "finetunejobs.GROUP/status"),
    ("patch", "adapterdeployments.GROUP/status"),
    ("create", "adapterdeployments.GROUP"),
    ("create", "jobs.batch"),
    ("patch", "deployments.apps"),
    ("watch", "pods"),
    ("create", "events"),
    ("get", "serviceaccounts"),
]
NEVER = [
    ("get", "secrets"),
    ("list", "secrets"),
    ("create", "secrets"),
    ("update", "finetunejobs.GROUP"),
    ("patch", "finetunejobs.GROUP"),
    ("patch", "adapterdeployments.GROUP"),
    ("delete", "adapterdeployments.GROUP"),
    ("create", "pods"),
    ("delete", "pods"),
    ("patch", "jobs.batch"),
    ("create", "pods/exec"),
    ("get", "pods/log"),
    ("create", "serviceaccounts/token"),
    ("create", "roles.rbac.authorization.k8s.io"),
]


def test_rights_everywhere(release: Release, other: str) -> None:
    release.apply()
    assert [need for need in NEEDED if not release.may(*need, other)] == []
    assert [right for right in NEVER if release.may(*right, other)] == []
    assert release.may("create", "tokenreviews.authentication.k8s.io", other)


def test_rights_in_listed_namespaces_only(release: Release, other: str) -> None:
    release.apply({"watchNamespaces": [other]})
    assert [need for need in NEEDED if not release.may(*need, other)] == []
    assert [right for right in NEVER if release.may(*right, other)] == []
    assert [need for need in NEEDED if release.may(*need, release.kubectl.namespace)] == []
    assert release.may("create", "tokenreviews.authentication.k8s.io", "default")


def test_people_get_rights_with_the_usual_roles(release: Release, other: str) -> None:
    release.apply()
    for role in ("view", "edit"):
        release.kubectl.within(other)("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er")
    wait_until("aggregation", lambda: release.may("create", "finetunejobs.GROUP", other, "editer"), 30)
    assert release.may("get", "adapterdeployments.GROUP", other, "viewer")
    assert not release.may("create", "finetunejobs.GROUP", other, "viewer")
    assert not release.may("patch", "finetunejobs.GROUP/status", other, "editer")


def store_image() -> Object:
    """The object store's image where one was built here (IMAGES: JSON of name -> repository@digest)."""
    if "IMAGES" not in os.environ:
        return {}
    reference = json.loads(Path(os.environ["IMAGES"]).read_text())["seaweedfs"]
    return {"image": dict(zip(("repository", "digest"), reference.split("@"), strict=True))}


def test_the_quick_start_store_keeps_keys_and_data(release: Release) -> None:
    kubectl = release.kubectl
    store = f"{release.name}-finetune-operator-s3"
    values = {"quickstart": {"enabled": True, "namespaces": [kubectl.namespace], **store_image()}}
    release.apply(values)
    kubectl("rollout", "status", f"deployment/{store}", "--timeout=120s")
    before = kubectl.get("secret", "s3")["data"]
    write(kubectl, store)

    release.edit("Chart.yaml", "version: 0.1.0", "version: 0.1.1")
    release.apply(values)
    assert kubectl.get("secret", "s3")["data"] == before
    assert read(kubectl, store) == b"kept by an upgrade"

    kubectl("exec", f"deployment/{store}", "--", "sh", "-c", "kill 1")
    restarted(kubectl, store)
    assert read(kubectl, store) == b"kept by an upgrade"


def s3(kubectl: Kubectl, port: int) -> boto3.client:
    """A client with the Secret's keys."""
    secret = {key: base64.b64decode(value).decode() for key, value in kubectl.get("secret", "s3")["data"].items()}
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=secret["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=secret["AWS_SECRET_ACCESS_KEY"],
        region_name=secret["AWS_REGION"],
    )


def write(kubectl: Kubectl, store: str) -> None:
    """Put an object; a bucket nobody asked for is refused."""
    with kubectl.port_forward(f"service/{store}", 8333) as port:
        client = s3(kubectl, port)
        assert {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} == {"data", "models"}
        client.put_object(Bucket="data", Key="a", Body=b"kept by an upgrade")
        with pytest.raises(client.exceptions.NoSuchBucket):
            client.put_object(Bucket="misspelt", Key="a", Body=b"")


def read(kubectl: Kubectl, store: str) -> bytes:
    """The object."""
    with kubectl.port_forward(f"service/{store}", 8333) as port:
        body: bytes = s3(kubectl, port).get_object(Bucket="data", Key="a")["Body"].read()
    return body


def restarted(kubectl: Kubectl, store: str) -> None:
    """Wait until the container was started again and is ready."""

    def ready() -> bool:
        (pod,) = kubectl.list("pods", "app.kubernetes.io/component=quickstart-s3")
        (status,) = pod["status"]["containerStatuses"]
        return bool(status["restartCount"] == 1 and status["ready"])

    wait_until(f"{store} is ready again", ready, 120)
