"""Batches become the gradients they should: accumulated, packed, recomputed, or through a quantised base."""

from pathlib import Path

import pytest

from finetune_stage.outcome import Places
from prepared_jobs import LORA, QLORA, ROWS, colour_rows, prepare_job, train_here, training
from published_models import fetched, metrics
from tiny_models import write_tiny_llama


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "divisor", "expected"),
    [(16, 16, 1, (16, 1)), (16, 4, 2, (2, 8)), (12, 9, 1, (6, 2)), (6, 2, 8, (1, 6)), (1, 16, 1, (1, 1))],
)
def test_a_smaller_micro_batch_keeps_the_batch(
    batch_size: int, micro_batch_size: int, divisor: int, expected: tuple[int, int]
) -> None:
    from finetune_trainer.train import split_batch

    assert split_batch(batch_size, micro_batch_size, divisor) == expected


def test_accumulated_gradients_are_those_of_the_whole_batch(bucket: str, secret: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    rows = {"train": [row | {"completion": row["completion"] * (1 + i % 5)} for i, row in enumerate(colour_rows(32))]}
    settings = training(batch_size=8, micro_batch_size=8, steps=4)
    weights, losses = [], []
    for divisor in (1, 8):
        name = f"divided-by-{divisor}"
        config = prepare_job(bucket, secret.parent, rows, name=name, adapter=LORA, settings=settings)
        train_here(config, secret.parent, tmp_path / name, divisor)
        folder = fetched(config, secret, tmp_path / f"{name}-adapter", "adapter")
        weights.append(load_file(folder / "adapter_model.safetensors"))
        losses.append([line["loss"] for line in metrics(config, secret)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, whole in weights[0].items():
        assert whole == pytest.approx(weights[1][name], abs=2e-5), name


def test_packed_rows_do_not_see_each_other(bucket: str, secret: Path, tmp_path: Path) -> None:
    """The first step's loss over all rows is the same, packed or not; then so are the masks and positions."""
    rows, losses, norms = {"train": colour_rows(8)}, [], []
    for packing in (False, True):
        name = f"packing-{packing}".lower()
        settings = training(steps=1, batch_size=8, micro_batch_size=8, packing=packing, max_length=128)
        config = prepare_job(bucket, secret.parent, rows, name=name, adapter=LORA, settings=settings)
        train_here(config, secret.parent, tmp_path / name)
        [line] = metrics(config, secret)
        losses.append(line["loss"])
        norms.append(line["gradNorm"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_recomputed_activations_give_the_same_gradients(bucket: str, secret: Path, tmp_path: Path) -> None:
    """Behind a frozen embedding nothing would learn, unless its output is made to ask for gradients."""
    rows, found = {"train": colour_rows(8)}, []
    for recompute in (False, True):
        name = f"recompute-{recompute}".lower()
        settings = training(steps=1, batch_size=8, micro_batch_size=8, gradient_checkpointing=recompute)
        config = prepare_job(bucket, secret.parent, rows, name=name, adapter=LORA, settings=settings)
        train_here(config, secret.parent, tmp_path / name)
        [line] = metrics(config, secret)
        found.append((line["loss"], line["gradNorm"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[1][1] > 0


def test_gradients_of_a_quantised_base_survive_an_evaluation(bucket: str, secret: Path, tmp_path: Path) -> None:
    """bitsandbytes repacks weights at a forward in eval mode on some CPUs; gradients after it were silently wrong."""
    import torch

    from finetune_stage.rows import open_output
    from finetune_trainer.adapter import add_adapter
    from finetune_trainer.inputs import read_inputs
    from finetune_trainer.machine import Numerics
    from finetune_trainer.model import fetch_base, load_base
    from finetune_trainer.world import World

    base = write_tiny_llama(tmp_path / "base", hidden_size=128)
    config = prepare_job(bucket, secret.parent, ROWS, adapter=QLORA, base=base)
    places = Places(secrets_dir=secret.parent, work_dir=tmp_path / "work")
    inputs = read_inputs(open_output(config, places), places)
    numerics = Numerics("cpu", bf16=True)
    model = add_adapter(load_base(inputs, fetch_base(inputs, World()), numerics).model, QLORA, seed=1)
    ids = torch.arange(4, 68).view(1, -1)

    def gradients() -> torch.Tensor:
        model.train()
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    before = gradients()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model.eval()
        model(input_ids=ids)
    assert torch.count_nonzero(before)
    assert torch.equal(gradients(), before)
