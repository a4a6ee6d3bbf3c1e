"""The gateway as it is, beside stand-ins for the model server and the operator (see gateway_stage)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway_stage import Stage, stage


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Stage]:
    """A gateway without adapters."""
    async with stage(tmp_path) as made:
        yield made
