"""The data part of the prepare stage on many rows, against the library datasets doing the same job and against reading the file.

    python -m benchmarks.data --rows 1000000 --folder /tmp/rows [--near]

Each runs in a process of its own: seconds by the clock and of all processors, and the largest memory the process had.
The job: JSON lines in, copies left out, one row in a hundred held out, every row tokenised and counted. Ours also checks every row,
looks for secrets, languages, refusals and contamination, and with --near for near duplicates.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

WORDS = 50_000
DRAWN = 2_000_000
SAMPLE = 5_000
"""Rows the tokenizer is trained on."""


def main() -> None:
    """Make the rows where they are not there, and measure each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/finetune-data-benchmark"))
    parser.add_argument("--near", action="store_true", help="leave out near duplicates as well (ours only)")
    ways = ["read", "splits", "ours", "datasets"]
    parser.add_argument("--only", choices=ways, nargs="*", default=ways, help="splits: ours without the tokens")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / f"rows-{options.rows}.jsonl"
    if not path.exists():
        write_rows(path, options.rows)
    tokenizer = options.folder / "tokenizer"
    if not tokenizer.exists():
        measured(make_tokenizer, path, tokenizer)
    work: dict[str, Callable[[], Any]] = {
        "read": lambda: read(path),
        "splits": lambda: ours(path, None, near=options.near),
        "ours": lambda: ours(path, tokenizer, near=options.near),
        "datasets": lambda: with_datasets(path, tokenizer),
    }
    megabytes = path.stat().st_size / 1e6
    print(
        f"{options.rows:,} rows, {megabytes:,.0f} MB; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    )
    for name in options.only:
        wall, cpu, memory, result = measured(work[name])
        print(
            f"{name:>9}: {wall:7.1f} s ({megabytes / wall:6.1f} MB/s), {cpu:7.1f} s of processors "
            f"({megabytes / max(cpu, 0.01):6.1f} MB/s), at most {memory:5.2f} GiB; {result}",
            flush=True,
        )


def measured(work: Callable[..., Any], *arguments: Any) -> tuple[float, float, float, Any]:
    """Seconds, processor seconds, GiB and result of work in a process of its own."""
    receive, send = multiprocessing.get_context("fork").Pipe(duplex=False)

    def run() -> None:
        began, before = time.monotonic(), time.process_time()
        result = work(*arguments)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        send.send((time.monotonic() - began, time.process_time() - before, peak, result))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    send.close()
    found: tuple[float, float, float, Any] = receive.recv()
    process.join()
    return found


def write_rows(path: Path, count: int) -> None:
    """Questions and answers of made-up words, as frequent as words are; one in a hundred a copy, one nearly one."""
    rng = random.Random(1)
    syllables = [consonant + vowel for consonant in "bdfghklmnprstvwz" for vowel in "aeiou"]
    words = ["".join(rng.choices(syllables, k=1 + number % 4)) for number in range(WORDS)]
    drawn = rng.choices(words, [1 / (rank + 10) for rank in range(WORDS)], k=DRAWN)
    text = ["a", "first", "row"]
    with path.open("w") as out:
        for number in range(count):
            kind = number % 100
            if kind > 1:
                text = [
                    drawn[place] for place in np.random.default_rng(number).integers(DRAWN, size=120 + number % 121)
                ]
            elif kind == 1:
                text = [*text[:60], "changed", *text[61:]]
            cut = len(text) // 2
            row = {"prompt": " ".join(text[:cut]), "completion": " " + " ".join(text[cut:])}
            out.write(json.dumps(row) + "\n")


def make_tokenizer(rows: Path, folder: Path) -> None:
    """A byte-level BPE of the first rows."""
    from finetune_api.v1alpha1.base_model import FromConfig
    from finetune_trainer.tokenizer import train_tokenizer

    sample = folder.with_name("sample.jsonl")
    with rows.open() as lines, sample.open("w") as out:
        for _, line in zip(range(SAMPLE), lines, strict=False):
            row = json.loads(line)
            out.write(json.dumps({"text": row["prompt"] + row["completion"]}) + "\n")
    sizes = {"hidden_size": 64, "intermediate_size": 64, "layers": 1, "attention_heads": 1}
    train_tokenizer(sample, FromConfig(architecture="Llama", vocabulary_size=32_000, **sizes), folder)


def read(path: Path) -> str:
    """Nothing but the bytes."""
    with path.open("rb") as file:
        return f"{sum(map(len, iter(lambda: file.read(1 << 20), b''))):,} bytes"


def ours(path: Path, tokenizer: Path | None, *, near: bool) -> str:
    """As the prepare stage does; without a tokenizer only what comes before the tokens."""
    from finetune_api.v1alpha1.dataset import DatasetSpec, Quality
    from finetune_trainer.data.examining import Looking, examine
    from finetune_trainer.data.findings import Findings
    from finetune_trainer.data.progress import Progress
    from finetune_trainer.data.sources import SourceFile
    from finetune_trainer.data.splits import Wanted, prepare_splits
    from finetune_trainer.encode import encoder

    spec = {
        "train": {"uri": "s3://bucket/rows.jsonl"},
        "split": {"test": 0.01},
        "quality": {"deduplicate": "Near" if near else "Exact"},
    }
    wanted = Wanted(DatasetSpec.model_validate(spec), "sft", frozenset(), 42)
    folder = path.parent / f"ours-{os.getpid()}"
    told = Progress(lambda step, done, total: print(f"    {step}: {done:,}", flush=True))
    data = prepare_splits([SourceFile("train", path.name, path)], wanted, folder, told, Findings())
    result = f"{data.rows}, {data.duplicates} copies, {data.near_duplicates} nearly"
    if tokenizer is not None:
        tokens = encoder(_loaded(tokenizer), data.format, True)
        found = examine(data, Looking(tokens, Quality(), frozenset(), ()), told)
        result += f", {sum(sum(lengths.tokens) for lengths in found.lengths.values()):,} tokens"
    shutil.rmtree(folder)
    return result


def with_datasets(path: Path, tokenizer: Path) -> str:
    """The same with the library datasets, as one would write it."""
    from datasets import load_dataset

    cache, tokens, seen = path.parent / f"datasets-{os.getpid()}", _loaded(tokenizer), set[bytes]()

    def is_first(row: dict[str, Any]) -> bool:
        digest = hashlib.sha256((row["prompt"] + "\0" + row["completion"]).encode()).digest()[:16]
        known = digest in seen
        seen.add(digest)
        return not known

    def tokenised(rows: dict[str, list[str]]) -> dict[str, Any]:
        pairs = zip(rows["prompt"], rows["completion"], strict=True)
        prompts = tokens(rows["prompt"])["input_ids"]
        whole = tokens([prompt + completion for prompt, completion in pairs])["input_ids"]
        return {"input_ids": whole, "prompt_length": [len(ids) for ids in prompts]}

    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache)).filter(is_first)
    splits = rows.train_test_split(test_size=0.01, seed=42).map(tokenised, batched=True)
    counted = sum(sum(map(len, batch["input_ids"])) for split in splits.values() for batch in _batches(split))
    sizes = {name: len(split) for name, split in splits.items()}
    shutil.rmtree(cache)
    return f"{sizes}, {counted:,} tokens"


def _batches(split: Any) -> Iterator[dict[str, Any]]:
    yield from split.iter(batch_size=1000)


def _loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


if __name__ == "__main__":
    main()
