"""End-to-end tests run against the cluster of KUBECONFIG with the chart installed; nothing is faked.

Each test has a namespace of its own that enforces the restricted Pod Security Standard, with a Secret ``s3`` for the
quick-start object store. The base model is a tiny Llama with random weights, made here and uploaded once.
"""

import base64
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import boto3
import pytest

from demo.kubectl import Kubectl
from e2e_jobs import fresh_namespace
from tiny_models import write_tiny_llama

SYSTEM = "finetune-system"
STORE = "finetune-operator-s3"
BASE_URI = "s3://models/e2e/tiny-base"


@pytest.fixture(scope="session")
def cluster() -> Kubectl:
    """The cluster with the operator installed."""
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("KUBECONFIG is not set: run `make e2e`, or export it from `make -s kubeconfig`")
    kubectl = Kubectl(os.environ["KUBECONFIG"])
    kubectl("get", "crd", "finetunejobs.finetune.dev")
    return kubectl


@pytest.fixture(scope="session")
def credentials(cluster: Kubectl) -> dict[str, str]:
    """The quick-start store's Secret, as the demo's namespace has it, with values still encoded."""
    data: dict[str, str] = cluster.within("finetune-demo").get("secret", "s3")["data"]
    return data


@pytest.fixture
def namespace(cluster: Kubectl, credentials: dict[str, str]) -> Iterator[Kubectl]:
    """A fresh namespace with the Secret s3."""
    with fresh_namespace(cluster, credentials) as kubectl:
        yield kubectl


@pytest.fixture(scope="session")
def connect_store(cluster: Kubectl, credentials: dict[str, str]) -> Callable[[], AbstractContextManager[Any]]:
    """Opens boto3 clients of the quick-start store, each with a port-forward of its own: one ends with the kubelet."""
    secret = {key: base64.b64decode(value).decode() for key, value in credentials.items()}

    @contextmanager
    def connected() -> Iterator[Any]:
        with cluster.within(SYSTEM).port_forward(f"service/{STORE}", 8333) as port:
            yield boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                aws_access_key_id=secret["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=secret["AWS_SECRET_ACCESS_KEY"],
                region_name=secret["AWS_REGION"],
            )

    return connected


@pytest.fixture
def store(connect_store: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
    """A client for one test."""
    with connect_store() as client:
        yield client


@pytest.fixture(scope="session")
def tiny_base(
    connect_store: Callable[[], AbstractContextManager[Any]], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """URI of a tiny Llama with random weights and a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-base")
    write_tiny_llama(folder)
    with connect_store() as store:
        for path in sorted(folder.iterdir()):
            store.upload_file(str(path), "models", f"e2e/tiny-base/{path.name}")
    return BASE_URI
