"""A real tuning job at a real provider, submitted, found again and cancelled at once. Costs what the provider asks for that.

Needs an account, so that nothing here runs it: `pytest -m live tests/live`, with the variables below.
"""

import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from finetune_api.pods import JobConfig
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_delegate.provider import Task
from finetune_delegate.recipe import converted, provider_of
from finetune_stage.outcome import Places
from finetune_stage.rows import Row
from prepared_jobs import colour_chats

pytestmark = pytest.mark.live


def needed(*names: str) -> list[str]:
    """Values of environment variables. Skipped without them: a real provider costs money and wants credentials, so that this
    layer runs only where somebody asks for it by ``-m live``."""
    values = [os.environ.get(name, "") for name in names]
    if not all(values):
        pytest.skip(f"set {' and '.join(names)}")
    return values


def submit_and_cancel(backend: dict[str, Any], base: str, secrets_dir: Path, work: Path) -> None:
    """The delegate's own steps, but for the object store."""
    written = {
        "baseModel": {"uri": base},
        "dataset": {"train": {"uri": "s3://none/rows.jsonl"}},
        "output": {"uri": "s3://none"},
        "training": {"epochs": 1},
        "backend": backend,
    }
    config = JobConfig(
        namespace="live",
        name="live-test",
        uid=str(uuid.uuid4()),
        spec=FineTuneJobSpec.model_validate(written),
        base_model=ResolvedBaseModel(uri=base),
        image="none",
    )
    task = Task(config, Places(secrets_dir=secrets_dir, work_dir=work), patience=120)
    provider = provider_of(task)
    rows = [Row(str(number), fields) for number, fields in enumerate(colour_chats(24))]
    files = converted(task, {"train": rows}, work)
    submitted = provider.submit({"train": provider.upload("train", files["train"])})
    try:
        assert provider.look(submitted.job).end is None
        assert submitted.job in [view.job for view in provider.find()]
    finally:
        provider.cancel(submitted.job)
    assert provider.look(submitted.job).state in ("Cancelling", "Cancelled")


def test_openai(tmp_path: Path) -> None:
    (key,) = needed("FINETUNE_LIVE_OPENAI_KEY")
    (tmp_path / "openai").mkdir()
    (tmp_path / "openai" / "OPENAI_API_KEY").write_text(key)
    url = os.environ.get("FINETUNE_LIVE_OPENAI_URL")
    backend = {"secretRef": {"name": "openai"}, **({"baseUrl": url} if url else {})}
    model = os.environ.get("FINETUNE_LIVE_OPENAI_MODEL", "gpt-4o-mini-2024-07-18")
    submit_and_cancel({"openai": backend}, f"openai://{model}", tmp_path, tmp_path)


def test_vertex(tmp_path: Path) -> None:
    project, staging = needed("FINETUNE_LIVE_VERTEX_PROJECT", "FINETUNE_LIVE_VERTEX_STAGING")
    location = os.environ.get("FINETUNE_LIVE_VERTEX_LOCATION", "us-central1")
    backend = {"project": project, "location": location, "stagingUri": staging}
    model = os.environ.get("FINETUNE_LIVE_VERTEX_MODEL", "gemini-2.5-flash")
    submit_and_cancel({"vertex": backend}, f"vertex://{model}", tmp_path, tmp_path)
