"""What a token of a sampled answer earns, and what is learned from it: against figures worked out by hand."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from finetune_trainer.methods.ppo import Reference, laid_out
from finetune_trainer.proximal import Sampled, advantages, policy_loss, token_rewards, value_loss, whitened

ANSWERED = torch.tensor([[False, True, True, True], [False, False, True, False]])
REWARDS = torch.tensor([[9.0, 0.5, -1.0, 2.0], [9.0, 9.0, 3.0, 9.0]])
VALUES = torch.tensor([[7.0, 0.2, 0.4, 1.0], [7.0, 7.0, 0.5, 7.0]])


def by_definition(rewards: list[float], values: list[float], gamma: float, gae_lambda: float) -> Iterator[float]:
    """Schulman et al. 2016, equation 16, as the sum it is: nothing is expected after the last token."""
    later = [*values[1:], 0.0]
    surprises = [r + gamma * after - now for r, now, after in zip(rewards, values, later, strict=True)]
    for first in range(len(surprises)):
        yield sum((gamma * gae_lambda) ** k * each for k, each in enumerate(surprises[first:]))


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.7, 0.0)])
def test_an_advantage_is_the_discounted_sum_of_what_was_not_expected(gamma: float, gae_lambda: float) -> None:
    found = advantages(REWARDS, VALUES, ANSWERED, gamma, gae_lambda)
    assert found[0, 1:].tolist() == pytest.approx(
        list(by_definition([0.5, -1.0, 2.0], [0.2, 0.4, 1.0], gamma, gae_lambda))
    )
    assert found[1].tolist() == pytest.approx([0.0, 0.0, 2.5, 0.0])
    assert found[0, 0] == 0


def test_with_lambda_1_it_is_what_was_earned_less_what_was_expected() -> None:
    found = advantages(REWARDS, VALUES, ANSWERED, 1.0, 1.0)
    assert found[0, 1:].tolist() == pytest.approx([1.5 - 0.2, 1.0 - 0.4, 2.0 - 1.0])


def test_every_token_pays_for_leaving_the_reference_and_the_last_one_is_paid() -> None:
    divergence = torch.tensor([[5.0, 1.0, -2.0, 0.5], [5.0, 5.0, 4.0, 5.0]])
    found = token_rewards(torch.tensor([10.0, -1.0]), divergence, ANSWERED, 0.1)
    assert found[0].tolist() == pytest.approx([0.0, -0.1, 0.2, 9.95])
    assert found[1].tolist() == pytest.approx([0.0, 0.0, -1.4, 0.0])


def test_advantages_are_whitened_over_the_answers_alone() -> None:
    found = whitened(torch.tensor([[99.0, 1.0, 2.0, 3.0], [99.0, 99.0, 6.0, 99.0]]), ANSWERED)
    inside = found[ANSWERED]
    assert (inside.mean().item(), inside.std(correction=0).item()) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert not found[~ANSWERED].any()


def a_batch(advantage: float, old_value: float = 0.0, goal: float = 0.0) -> Sampled:
    """One answer of one token, behind a prompt of one."""
    one = torch.ones(1, 1)
    ids = torch.zeros(1, 2, dtype=torch.long)
    return Sampled(ids, ids, one.bool(), -one, old_value * one, advantage * one, goal * one)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.0, 2.0, -2.0, True),
        (1.1, 2.0, -2.2, True),
        (1.5, 2.0, -2.4, False),  # more probable than the range allows: nothing is gained by more
        (0.5, 2.0, -1.0, True),  # the wrong way: it is brought back
        (0.5, -2.0, 1.6, False),
        (1.5, -2.0, 3.0, True),
    ],
)
def test_a_token_gains_nothing_beyond_the_range(ratio: float, advantage: float, loss: float, moves: bool) -> None:
    log_probs = (torch.tensor([[ratio]]).log() - 1).requires_grad_()
    found, clipped = policy_loss(log_probs, a_batch(advantage), 0.2)
    found.backward()
    assert log_probs.grad is not None
    assert found.item() == pytest.approx(loss)
    assert bool(log_probs.grad.any()) is moves
    assert clipped.item() == (not moves)


@pytest.mark.parametrize(("value", "loss", "moves"), [(0.1, 0.405, True), (0.5, 0.32, False), (-0.5, 1.125, True)])
def test_a_value_gains_nothing_beyond_the_range(value: float, loss: float, moves: bool) -> None:
    values = torch.tensor([[value]], requires_grad=True)
    found = value_loss(values, a_batch(0.0, goal=1.0), 0.2)
    found.backward()
    assert values.grad is not None
    assert found.item() == pytest.approx(loss)
    assert bool(values.grad.any()) is moves


def test_the_predictions_of_an_answer_begin_at_the_prompts_last_token() -> None:
    ids, mask, answered = laid_out([[1, 2], [3]], [[4, 5], [6]], "cpu")
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 4, 5], [3, 6, 0, 0]], [[1, 1, 1, 1], [1, 1, 0, 0]])
    assert answered.tolist() == [[False, True, True], [True, False, False]]


def test_the_reference_has_the_weights_of_the_beginning_and_gives_the_learned_ones_back() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    first = weight(model)
    reference = Reference(model, is_base=False)
    with torch.no_grad():
        model.weight += 1
    with reference.in_place():
        assert weight(model).equal(first)
    assert weight(model).equal(first + 1)


def weight(model: torch.nn.Linear) -> Tensor:
    """As it is now."""
    return model.weight.detach().clone()
