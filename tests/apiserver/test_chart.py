"""The chart on a real API server: installed, upgraded, uninstalled, and what its rights amount to.

A copy of the chart with an API group and role names of its own is used, so that an installed release stays untouched.
"""

import pytest

from demo.kubectl import GROUP, Object, wait_until
from helm_release import Release, await_served
from manifests import job

pytestmark = pytest.mark.apiserver


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
    await_served(release.kubectl, release.crds)
    release.kubectl.apply(job(release.group))

    release.edit(f"templates/crds/finetunejobs.{GROUP}.yaml", "Rows to train on.", "Rows of the next version.")
    release.apply()
    assert "Rows of the next version." in release.kubectl("get", release.crds[1], "-o", "yaml")

    release.helm("uninstall", release.name)
    assert not release.exists(f"deployment/{release.name}-finetune-operator")
    assert release.kubectl.get(f"finetunejobs.{release.group}", "job")["spec"]["output"] == {
        "uri": "s3://models/team-a"
    }

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
    ("update", "finetunejobs.GROUP"),  # patch it has, for the finalizer of delegated jobs
    ("patch", "adapterdeployments.GROUP"),
    ("delete", "adapterdeployments.GROUP"),
    ("get", "pods"),
    ("create", "pods"),
    ("delete", "pods"),
    ("get", "deployments.apps"),
    ("patch", "jobs.batch"),
    ("create", "pods/exec"),
    ("get", "pods/log"),
    ("create", "serviceaccounts/token"),
    ("create", "roles.rbac.authorization.k8s.io"),
]


def await_rights(release: Release, namespace: str) -> None:
    """Until what is needed is allowed: definitions and bindings are known to the API server a moment after they are made."""
    for need in [*NEEDED, ("create", "tokenreviews.authentication.k8s.io")]:
        wait_until(f"may {' '.join(need)}", lambda need=need: release.may(*need, namespace), 30)


def test_rights_everywhere(release: Release, other: str) -> None:
    release.apply()
    await_rights(release, other)
    assert [right for right in NEVER if release.may(*right, other)] == []


def test_rights_in_listed_namespaces_only(release: Release, other: str) -> None:
    release.apply({"watchNamespaces": [other]})
    await_rights(release, other)
    assert [right for right in NEVER if release.may(*right, other)] == []
    assert [need for need in NEEDED if release.may(*need, release.kubectl.namespace)] == []


def test_people_get_rights_with_the_usual_roles(release: Release, other: str) -> None:
    release.apply()
    for role in ("view", "edit"):
        release.kubectl.within(other)("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er")
    wait_until("aggregation", lambda: release.may("create", "finetunejobs.GROUP", other, "editer"), 30)
    wait_until("aggregation", lambda: release.may("get", "adapterdeployments.GROUP", other, "viewer"), 30)
    assert not release.may("create", "finetunejobs.GROUP", other, "viewer")
    assert not release.may("patch", "finetunejobs.GROUP/status", other, "editer")
