"""Near duplicates by our signatures, and by datasketch's: what each finds of pairs whose likeness is known.

    PYTHONPATH=operator:trainer_image:. python -m benchmarks.near ours
    PYTHONPATH=operator:trainer_image:. python -m benchmarks.near datasketch    # not installed with the rest: pip install datasketch

Texts of 40 to 160 random words, a third of them followed by a copy with one to four words changed. Both compare runs of five words by 128
hashes at a threshold of 0.8.
"""

import argparse
import random
import resource
import time
from collections.abc import Callable

import numpy as np

RUN, HASHES, SHARED = 5, 128, 0.8
Texts = list[list[str]]


def corpus(texts: int) -> tuple[Texts, dict[int, float]]:
    """Texts, and of each copy the Jaccard similarity of its runs to those of its original."""
    draw, words = random.Random(7), [f"w{i}" for i in range(5000)]
    rows: Texts = []
    likeness = {}
    for number in range(texts):
        text = [draw.choice(words) for _ in range(draw.randint(40, 160))]
        rows.append(text)
        if number % 3 == 0:
            copy = list(text)
            for _ in range(draw.randint(1, 4)):
                copy[draw.randrange(len(copy))] = draw.choice(words)
            rows.append(copy)
            one, other = set(_runs(text)), set(_runs(copy))
            likeness[len(rows) - 1] = len(one & other) / len(one | other)
    return rows, likeness


def _runs(text: list[str]) -> list[str]:
    return [" ".join(text[start : start + RUN]) for start in range(len(text) - RUN + 1)]


def ours(rows: Texts) -> set[int]:
    from finetune_trainer.data.near import near_duplicates, signature

    signatures = np.frombuffer(b"".join(signature(" ".join(row)) for row in rows), np.uint16).reshape(-1, HASHES)
    return set(np.flatnonzero(near_duplicates(signatures)).tolist())


def datasketch(rows: Texts) -> set[int]:
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-not-found]  # no dependency of ours

    index, found = MinHashLSH(threshold=SHARED, num_perm=HASHES), set()
    for number, row in enumerate(rows):
        hashed = MinHash(num_perm=HASHES)
        hashed.update_batch([run.encode() for run in _runs(row)])
        if index.query(hashed):
            found.add(number)
        else:
            index.insert(number, hashed)
    return found


def main() -> None:
    """Print a line of figures."""
    ways: dict[str, Callable[[Texts], set[int]]] = {"ours": ours, "datasketch": datasketch}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=ways)
    parser.add_argument("--texts", type=int, default=20_000)
    options = parser.parse_args()
    rows, likeness = corpus(options.texts)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = ways[options.way](rows)
    seconds, more = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    for bound in (SHARED, 0.85):
        near = {number for number, share in likeness.items() if share >= bound}
        print(f"of {len(near):,} copies that share at least {bound}: {len(found & near) / len(near):.1%} found")
    wrong = sum(likeness.get(number, 0.0) < 0.75 for number in found)
    print(
        f"{wrong} found that share less than 0.75; {seconds:.1f} s of a processor, {more / 1024:.0f} MiB, {len(rows):,} rows"
    )


if __name__ == "__main__":
    main()
