"""Which share of a split answers a request. Pure.

A key always leads to the same share, in every pod alike. Rendezvous hashing: when weights change or a share falls out, only
the keys that must move do, and they come back with it.
"""

import math
from collections.abc import Mapping
from hashlib import blake2b
from random import Random


def pick(weights: Mapping[str, int], model: str, key: str | None, random: Random) -> str | None:
    """One of the shares, each with the probability of its weight; by ``key``, or without one by a draw. None: all weigh nothing.

    ``model`` is hashed along, so that whoever is first in one split is not first in all of them.
    """
    live = {share: weight for share, weight in weights.items() if weight > 0}
    if not live:
        return None
    if key is None:
        return random.choices(list(live), list(live.values()))[0]
    # The first of competing exponential clocks, each as fast as its weight, rings with the probability of that weight.
    return min(live, key=lambda share: -math.log(uniform(f"{model}\n{share}\n{key}")) / live[share])


def uniform(text: str) -> float:
    """A number above 0 and at most 1 that looks drawn and depends on the text alone."""
    return (int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) + 1) / 2**64
