"""What a token of a sampled answer earns, how much better than expected that was, and what is learned from it. Pure.

All tensors are (B, T): one row an answer behind its prompt, one column the prediction of the next token; ``answered`` says
which of them are of the answer's own tokens, and outside of it nothing counts. Used by :mod:`finetune_trainer.methods.ppo`.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Sampled(NamedTuple):
    """What is remembered of a batch of answers while it is learned from."""

    ids: Tensor
    """(B, T + 1) tokens of prompt and answer, padded on the right."""
    mask: Tensor
    """(B, T + 1): 1 where a token is no padding."""
    answered: Tensor
    log_probs: Tensor
    """Of the tokens, under the policy that sampled them; nats."""
    values: Tensor
    """What its value head expected to be earned from here on."""
    advantages: Tensor
    returns: Tensor
    """What the value head is to expect next time."""

    def rows(self, part: slice) -> "Sampled":
        """Some of the answers."""
        return Sampled(*(each[part] for each in self))


def token_rewards(earned: Tensor, divergence: Tensor, answered: Tensor, coefficient: float) -> Tensor:
    """What every token earns: it pays for each nat it is more probable than under the reference, and the last one is paid what
    the answer is worth, ``earned`` (B) (Ouyang et al. 2022, equation 2)."""
    rewards = torch.where(answered, -coefficient * divergence, 0.0)
    places = torch.arange(answered.shape[1], device=answered.device)
    last = torch.where(answered, places, -1).argmax(1)
    return rewards.index_put((torch.arange(len(earned), device=earned.device), last), earned, accumulate=True)


def advantages(rewards: Tensor, values: Tensor, answered: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """How much more than expected is earned from each token on: generalised advantage estimate (Schulman et al. 2016, equation 16).
    An answer's tokens stand side by side, and nothing follows the last of them."""
    expected = torch.where(answered, values, 0.0)
    following = torch.nn.functional.pad(expected[:, 1:], (0, 1))
    surprises = torch.where(answered, rewards + gamma * following - expected, 0.0)
    found, carried = torch.zeros_like(surprises), torch.zeros_like(surprises[:, 0])
    for place in reversed(range(surprises.shape[1])):
        carried = surprises[:, place] + gamma * gae_lambda * carried
        found[:, place] = carried
    return torch.where(answered, found, 0.0)


def whitened(values: Tensor, answered: Tensor) -> Tensor:
    """With mean 0 and deviation 1 over the answers' tokens."""
    mean = masked_mean(values, answered)
    deviation = masked_mean((values - mean) ** 2, answered).sqrt()
    return torch.where(answered, (values - mean) / (deviation + 1e-8), 0.0)


def policy_loss(log_probs: Tensor, batch: Sampled, clip_range: float) -> tuple[Tensor, Tensor]:
    """Summed over the answers' tokens (Schulman et al. 2017, equation 7), and how many of them gain nothing more by moving."""
    ratio = torch.where(batch.answered, log_probs - batch.log_probs, 0.0).exp()
    whole, cut = ratio * batch.advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * batch.advantages
    return -torch.minimum(whole, cut)[batch.answered].sum(), ((cut < whole) & batch.answered).sum()


def value_loss(values: Tensor, batch: Sampled, clip_range: float) -> Tensor:
    """Half the squared error, summed over the answers' tokens; what a value moves beyond the range gains nothing."""
    cut = batch.values + (values - batch.values).clamp(-clip_range, clip_range)
    errors = torch.maximum((values - batch.returns) ** 2, (cut - batch.returns) ** 2)
    return 0.5 * errors[batch.answered].sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Of what the mask keeps."""
    return values[mask].mean()
