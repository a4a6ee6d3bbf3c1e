"""The gateway as it is, beside stand-ins for the model server (or a provider) and the operator (see gateway_stage)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway_stage import Stage, stage
from provided_gateway import MODELS, of_provider, openai_stage, ready, vertex_stage
from provider_stage import OpenAIService, Provider, VertexService


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Stage]:
    """A gateway without adapters."""
    async with stage(tmp_path) as made:
        yield made


@pytest.fixture(params=["openai", "vertex"])
async def both(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[str, Provider, Stage]]:
    """Each provider with its gateway; the deployment bot answers."""
    service: Any = OpenAIService() if request.param == "openai" else VertexService()
    made = openai_stage if request.param == "openai" else vertex_stage
    async with made(tmp_path, service) as running:
        await ready(running, of_provider("bot", MODELS[request.param]))
        yield request.param, service, running
