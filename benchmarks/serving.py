"""What the gateway costs and how long an adapter takes to load: a tiny model on this machine, no cluster.

    PYTHONPATH=operator:trainer_image:tests python -m benchmarks.serving [--requests 300]

Prints a table: latency, first token and requests/s of the bare model server and through the gateway (asked in turns, so that
both see the same machine), the difference, and the seconds from wishing for an adapter to its first answer.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from openai import AsyncOpenAI

from s3_server import serve
from served_pool import ServedPool, served_pool, write_adapter
from tiny_models import write_tiny_llama

PROMPT = "green thing 7\nColour:"
TOKENS = 8


async def whole(client: AsyncOpenAI, model: str) -> float:
    """Seconds of a completion."""
    started = time.perf_counter()
    await client.completions.create(model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0)
    return time.perf_counter() - started


async def first_token(client: AsyncOpenAI, model: str) -> float:
    """Seconds to the first token of a stream."""
    started = time.perf_counter()
    stream = await client.completions.create(model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0, stream=True)
    async for _ in stream:
        first = time.perf_counter() - started
        break
    await stream.close()
    return first


async def rate(client: AsyncOpenAI, model: str, requests: int, clients: int) -> float:
    """Requests per second of so many clients that never rest."""
    left = iter(range(requests))

    async def ask() -> None:
        for _ in left:
            await whole(client, model)

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(clients)))
    return requests / (time.perf_counter() - started)


def row(name: str, bare: list[float], through: list[float]) -> str:
    """Milliseconds at the median, and at the 95th percentile."""
    cells = [1000 * value for sample in (bare, through) for value in (statistics.median(sample), quantile(sample))]
    cells.append(1000 * (statistics.median(through) - statistics.median(bare)))
    return f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |"


def quantile(sample: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(sample, n=20)[-1]


async def compare(pool: ServedPool, loaded: str, requests: int) -> None:
    """Ask both in turns and print."""
    bare = AsyncOpenAI(base_url=f"{pool.server_url}/v1", api_key="none", max_retries=0)
    gateway = AsyncOpenAI(base_url=f"{pool.url}/v1", api_key="none", max_retries=0)
    print("| | bare p50 ms | bare p95 ms | gateway p50 ms | gateway p95 ms | difference p50 ms |")
    print("|---|---|---|---|---|---|")
    for name, measure in ((f"completion of {TOKENS} tokens", whole), ("first token of a stream", first_token)):
        samples: tuple[list[float], list[float]] = ([], [])
        for number in range(requests + 20):
            pair = await measure(bare, loaded), await measure(gateway, "tuned")
            if number >= 20:  # warm
                samples[0].append(pair[0])
                samples[1].append(pair[1])
        print(row(name, *samples), flush=True)
    print("\n| clients | bare requests/s | gateway requests/s |\n|---|---|---|")
    for clients in (1, 8):
        rates = await rate(bare, loaded, requests, clients), await rate(gateway, "tuned", requests, clients)
        print(f"| {clients} | {rates[0]:.0f} | {rates[1]:.0f} |", flush=True)


def load_times(pool: ServedPool, folder: Path, adapters: int) -> list[float]:
    """Seconds from the operator's wish to the first answer, as the gateway reports them."""
    times = []
    for number in range(adapters):
        wish = pool.publish(f"load-{number}", write_adapter(folder / f"load-{number}", pool.base, seed=number))
        pool.wish(wish)
        pool.until_loaded(wish)
        said = pool.operator.said(wish.deployment)
        assert said is not None
        assert said.load_seconds is not None
        times.append(said.load_seconds)
    return times


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--adapters", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = write_tiny_llama(folder / "base")
        (folder / "pod").mkdir()
        with serve(folder / "s3") as s3:
            secret = s3.secret(folder / "secrets" / "s3")
            with served_pool(folder / "pod", s3.bucket("benchmark"), secret, base) as pool:
                wish = pool.publish("tuned", write_adapter(folder / "tuned", base, seed=1))
                pool.wish(wish)
                pool.until_loaded(wish)
                loaded = f"tuned-{wish.digest.removeprefix('sha256:')[:12]}"
                asyncio.run(compare(pool, loaded, args.requests))
                times = load_times(pool, folder, args.adapters)
                size = sum(path.stat().st_size for path in (folder / "tuned").iterdir())
                print(
                    f"\nadapter load ({size / 1024:.0f} KiB): p50 {statistics.median(times):.2f} s, max {max(times):.2f} s"
                )


if __name__ == "__main__":
    main()
