"""The search for a learning rate: what it takes of a loss curve, and that a job trains with it, interrupted or not."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import MANIFEST, RATE_SEARCH, Manifest, RateSearch, ResolvedAdapterSpec, ResolvedSearch
from finetune_api.reasons import Failure, Reason
from finetune_trainer import rate_search
from finetune_trainer.rate_search import has_diverged, smoothed
from finetune_trainer.train import take_steps
from prepared_jobs import (
    Rows,
    colour_rows,
    job_store,
    lines_until,
    preferences,
    prepare_job,
    start_train,
    train_here,
    training,
)
from published_models import metrics

SEARCH = ResolvedSearch(steps=40, lowest=1e-5, highest=1.0)
SEARCHING = training(steps=8, learning_rate=1e-3, learning_rate_search=SEARCH)
ROWS = {"train": colour_rows(24)}


def found_in(config: Any, secret: Path) -> RateSearch:
    return RateSearch.model_validate_json(job_store(config, secret.parent).get(RATE_SEARCH))


def test_a_job_trains_with_the_rate_that_was_found(bucket: str, secret: Path, tmp_path: Path) -> None:
    config = prepare_job(bucket, secret.parent, ROWS, settings=SEARCHING)
    trained = train_here(config, secret.parent, tmp_path / "work")
    found = found_in(config, secret)
    lowest = found.losses.index(min(found.losses))
    assert found.learning_rate == pytest.approx(found.rates[lowest] / 10, rel=0.05)
    assert found.losses[lowest] < 0.9 * found.losses[0]
    assert found.rates[0] == pytest.approx(SEARCH.lowest)
    assert found.reason.startswith(f"a tenth of {found.rates[lowest]:.2g}, up to which the loss fell in the search")
    assert trained.learning_rate == found.choice()
    store = job_store(config, secret.parent)
    assert max(line["learningRate"] for line in metrics(config, secret)) == pytest.approx(found.learning_rate, rel=1e-3)
    manifest = Manifest.model_validate_json(store.get(MANIFEST))
    assert RATE_SEARCH in {entry.path for entry in manifest.files}
    assert "Loss over the learning rate" in store.get("report.html").decode()


def test_what_the_search_learned_is_thrown_away(bucket: str, secret: Path, tmp_path: Path) -> None:
    """The weights are those of a job that states the rate, and of one that is killed after the search."""
    searched = prepare_job(bucket, secret.parent, ROWS, name="searched", settings=SEARCHING)
    rate = train_here(searched, secret.parent, tmp_path / "searched").learning_rate
    assert rate is not None
    stated = training(steps=8, learning_rate=float(rate.value))
    named = prepare_job(bucket, secret.parent, ROWS, name="stated", settings=stated)
    train_here(named, secret.parent, tmp_path / "stated")

    killed = prepare_job(bucket, secret.parent, ROWS, name="killed", settings=SEARCHING)
    process = start_train(killed, secret.parent, tmp_path / "first")
    lines_until(process, "learning rate ")
    process.kill()
    process.communicate(timeout=60)
    again = start_train(killed, secret.parent, tmp_path / "second")
    said = lines_until(again, "learning rate ")
    assert not any(line.startswith("searching") for line in said)
    again.communicate(timeout=120)
    assert again.returncode == 0

    weights = {weights_of(job, secret) for job in (searched, named, killed)}
    assert len(weights) == 1


def test_a_search_that_is_interrupted_is_made_again(bucket: str, secret: Path, tmp_path: Path) -> None:
    search = ResolvedSearch(steps=1000, lowest=1e-9, highest=1e-3)
    config = prepare_job(bucket, secret.parent, ROWS, settings=training(steps=2, learning_rate_search=search))
    process = start_train(config, secret.parent, tmp_path / "work")
    lines_until(process, "searching a learning rate")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not job_store(config, secret.parent).exists(RATE_SEARCH)


def weights_of(config: Any, secret: Path) -> str:
    manifest = Manifest.model_validate_json(job_store(config, secret.parent).get(MANIFEST))
    return next(entry.sha256 for entry in manifest.files if entry.path == "adapter/adapter_model.safetensors")


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        pytest.param(
            colour_rows(24),
            {"adapter": ResolvedAdapterSpec(type="LoraPlus", rank=4, learning_rate_ratio=16)},
            id="LoraPlus",
        ),
        pytest.param(colour_rows(24), {"adapter": ResolvedAdapterSpec(type="Full")}, id="Full"),
        pytest.param(preferences(24), {"method": "dpo"}, id="dpo"),
    ],
)
def test_every_kind_of_training_can_be_searched(
    bucket: str, secret: Path, tmp_path: Path, rows: Rows, changes: dict[str, Any]
) -> None:
    config = prepare_job(bucket, secret.parent, {"train": rows}, settings=SEARCHING, **changes)
    train_here(config, secret.parent, tmp_path / "work")
    found = found_in(config, secret)
    assert SEARCH.lowest / 10 < found.learning_rate < SEARCH.highest / 10
    assert min(found.losses) < 0.9 * found.losses[0]


def test_rates_that_teach_nothing_leave_the_usual_one(bucket: str, secret: Path, tmp_path: Path) -> None:
    search = ResolvedSearch(steps=20, lowest=1e-9, highest=1e-8)
    settings = training(steps=2, batch_size=24, learning_rate=3e-3, learning_rate_search=search)
    config = prepare_job(bucket, secret.parent, ROWS, settings=settings)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.learning_rate is not None
    assert trained.learning_rate.value == "0.003"
    assert trained.learning_rate.reason.startswith(
        "usual: the search from 1e-09 to 1e-08 found no rate that lowers the loss"
    )


def test_rates_that_end_too_early_are_told_of(bucket: str, secret: Path, tmp_path: Path) -> None:
    search = ResolvedSearch(steps=20, lowest=1e-4, highest=3e-3)
    config = prepare_job(
        bucket, secret.parent, ROWS, settings=training(steps=2, batch_size=24, learning_rate_search=search)
    )
    train_here(config, secret.parent, tmp_path / "work")
    assert found_in(config, secret).reason.endswith("it still fell at the end: raise learningRateSearch.highest")


def test_a_loss_that_is_no_number_does_not_ask_for_higher_rates(
    bucket: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback

    class Breaks(TrainerCallback):  # type: ignore[misc]  # transformers has no types
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 12:
                raise Failure(Reason.NON_FINITE_LOSS, "the loss became nan")

    def broken(trainer: Any, resolved: Any) -> None:
        trainer.add_callback(Breaks())
        take_steps(trainer, resolved)

    monkeypatch.setattr(rate_search, "take_steps", broken)
    search = ResolvedSearch(steps=20, lowest=1e-4, highest=3e-3)
    config = prepare_job(
        bucket, secret.parent, ROWS, settings=training(steps=2, batch_size=24, learning_rate_search=search)
    )
    train_here(config, secret.parent, tmp_path / "work")
    found = found_in(config, secret)
    assert len(found.rates) == 12
    assert found.reason.endswith("; the next step's loss was no number")


def test_a_base_that_is_no_number_is_no_matter_of_the_rate(bucket: str, secret: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from tiny_models import write_tiny_llama

    folder = write_tiny_llama(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.get_input_embeddings().weight.data[:] = float("nan")
    model.save_pretrained(folder)
    config = prepare_job(bucket, secret.parent, ROWS, settings=SEARCHING, base=folder)
    with pytest.raises(Failure, match=r"the loss became nan in step 1 on lines? \d") as found:
        train_here(config, secret.parent, tmp_path / "work")
    assert found.value.reason is Reason.NON_FINITE_LOSS
    assert not job_store(config, secret.parent).exists(RATE_SEARCH)


def test_smoothing_begins_at_the_first_loss() -> None:
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert smoothed([1.0, 0.0])[1] == pytest.approx(0.9 / 1.9)


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ([2.0, 1.0, 3.9], False),
        ([2.0, 1.0, 4.1], True),
        ([-1.0, 1.9], False),
        ([-1.0, 2.1], True),
        ([1.0, float("nan")], True),
    ],
)
def test_divergence_is_seen_by_its_size(losses: list[float], verdict: bool) -> None:
    assert has_diverged(losses) is verdict
