"""What base models bring along that is not weights, and what becomes of it."""

import json
from pathlib import Path

from prepared_jobs import FULL, ROWS, prepare_job, train_here, training
from published_models import fetched
from tiny_models import write_tiny_llama


def test_settings_of_sampling_that_do_nothing_do_not_hinder_publishing(
    bucket: str, secret: Path, tmp_path: Path
) -> None:
    """transformers reads such a file, and refuses to write it once its end tokens are others."""
    base = write_tiny_llama(tmp_path / "base")
    idle = {"temperature": 0.9, "top_p": 0.6, "top_k": 20, "length_penalty": 0.8, "early_stopping": True}
    kept = {"eos_token_id": 0, "max_length": 200, "repetition_penalty": 1.1}
    (base / "generation_config.json").write_text(json.dumps(kept | idle))
    config = prepare_job(bucket, secret.parent, ROWS, adapter=FULL, settings=training(steps=1), base=base)
    train_here(config, secret.parent, tmp_path / "work")
    stated = json.loads((fetched(config, secret, tmp_path / "model", "model") / "generation_config.json").read_bytes())
    assert {name: stated[name] for name in kept} == kept | {"eos_token_id": [0]}
    assert not set(idle) & set(stated)
