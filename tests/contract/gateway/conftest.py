"""The real gateway beside the real model server and a real S3 server, seen through the stock openai client.

Only the operator is played. The pod is shared by the tests of this folder and ends with the test process; each test uses
deployments of its own.
"""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from s3_server import S3Server
from served_pool import Made, ServedPool, make_adapters, served_pool


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Adapters and what they say."""
    return make_adapters(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def pool(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory, made: Made) -> Iterator[ServedPool]:
    """The pod, ready."""
    folder = tmp_path_factory.mktemp("gateway")
    secret = s3_server.secret(folder / "secrets" / "s3")
    with served_pool(folder, s3_server.bucket(folder.name), secret, made.base) as pool:
        yield pool


@pytest.fixture
def client(pool: ServedPool) -> OpenAI:
    """The stock client of its gateway."""
    return OpenAI(base_url=f"{pool.url}/v1", api_key="none", max_retries=0)
