"""Tests against a real API server, that of KUBECONFIG; nothing is faked, but that stages play the kubelet (see operator_process).

The CustomResourceDefinitions are served under a group of their own for the session, so that neither a running operator
nor an installed release meets the tests' objects: only the group's name differs from what the chart installs.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from demo.kubectl import GROUP, Kubectl
from helm_release import Release, await_served, copied_chart
from operator_process import Operator, Stage

ROOT = Path(__file__).parents[2]


def new_name(prefix: str) -> str:
    """A name nobody else has."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def cluster() -> Kubectl:
    """The API server; asked for by name, so that nobody tests on whatever context is current."""
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("KUBECONFIG is not set: start the local cluster and export KUBECONFIG=$(make -s kubeconfig)")
    return Kubectl(os.environ["KUBECONFIG"])


@pytest.fixture(scope="session")
def group(cluster: Kubectl) -> Iterator[str]:
    """The API group under which both kinds are served."""
    name = f"{new_name('t')}.{GROUP}"
    texts = [path.read_text().replace(GROUP, name) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    crds = [yaml.safe_load(text) for text in texts]
    assert len(crds) == 2
    for crd in crds:
        del crd["spec"]["names"]["shortNames"]  # those of an installed release would become ambiguous
    cluster.apply(*crds)
    names = [f"crd/{crd['metadata']['name']}" for crd in crds]
    await_served(cluster, names)
    yield name
    cluster("delete", "--wait=false", *names)


@pytest.fixture
def namespace(cluster: Kubectl) -> Iterator[Kubectl]:
    """A fresh namespace that enforces the restricted Pod Security Standard."""
    name = new_name("api")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield cluster.within(name)
    cluster("delete", "namespace", name, "--wait=false")


@pytest.fixture
def stage(group: str, namespace: Kubectl, tmp_path: Path) -> Iterator[Stage]:
    """A namespace with a running operator."""
    operator = Operator(group, namespace, tmp_path / "operator.log")
    operator.start()
    yield Stage(namespace, group, operator)
    operator.stop()


@pytest.fixture
def release(namespace: Kubectl, tmp_path: Path) -> Iterator[Release]:
    """A copy of the chart, ready to be installed; afterwards nothing of it is left."""
    found = copied_chart(namespace, tmp_path)
    yield found
    found.helm("uninstall", found.name, "--ignore-not-found")
    namespace("delete", "--ignore-not-found", "--wait=false", *found.crds)


@pytest.fixture
def other(cluster: Kubectl) -> Iterator[str]:
    """A second namespace."""
    name = new_name("api")
    cluster("create", "namespace", name)
    yield name
    cluster("delete", "namespace", name, "--wait=false")
