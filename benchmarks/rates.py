"""Is the learning rate a search finds a good one? The demo's task, trained with it and with its neighbours.

    PYTHONPATH=operator:trainer_image:.:tests python -m benchmarks.rates [--steps 250] [--workers 5]

A small base is pretrained on the documentation of Python's own standard library, as the demo's is. Then for each adapter one job
searches, and others state 1/9, 1/3, 3 and 9 times what it found; all see the same rows in the same order. Each stage is a
process of its own, as in a pod; the store is a real S3 server. Prints the held-out loss and accuracy of each.
"""

import argparse
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from demo.docstrings import LABELS, files
from finetune_api.pods import JobConfig, Summary, Trained
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from s3_server import S3Server, serve
from stage_process import start_stage

PRETRAINED = Path(__file__).parents[1] / "examples" / "01-pretrain-a-base" / "job.yaml"
ADAPTERS: list[dict[str, Any]] = [
    {"type": "LoRA", "rank": 32, "alpha": 64},
    {"type": "Full"},
    {"type": "LoraPlus", "rank": 32, "alpha": 64},
    {"type": "IA3"},
]
NEIGHBOURS = (1 / 9, 1 / 3, 3, 9)


@dataclass(frozen=True)
class Bench:
    """A store with the rows, and where stages work."""

    bucket: str
    folder: Path

    def run(self, name: str, train: str, base: ResolvedBaseModel | None, **members: Any) -> Trained:
        """A job from its rows to its artifact. Raises RuntimeError with a stage's sentence."""
        spec = FineTuneJobSpec.model_validate(
            {
                "baseModel": {"uri": base.uri} if base else members.pop("baseModel"),
                "dataset": {"train": self._rows(train), **members.pop("dataset", {})},
                "output": {"uri": self.bucket, "secretRef": {"name": "s3"}},
                **members,
            }
        )
        config = JobConfig(
            namespace="bench", name=name, uid=name, spec=spec, base_model=base or ResolvedBaseModel(), image="none"
        )
        for stage in ("prepare", "train"):
            work = self.folder / f"{name}-{stage}"
            process = start_stage("finetune_trainer", stage, config, self.folder / "secrets", work)
            said, _ = process.communicate()
            summary = Summary.model_validate_json((work / "end").read_bytes())
            if summary.error is not None:
                raise RuntimeError(f"{name}: {stage}: {summary.error.message}\n{said[-2000:]}")
        assert summary.trained is not None
        return summary.trained

    def _rows(self, name: str) -> dict[str, Any]:
        return {"uri": f"{self.bucket}/rows/{name}.jsonl", "secretRef": {"name": "s3"}}

    def tune(self, name: str, base: ResolvedBaseModel, adapter: dict[str, Any], training: dict[str, Any]) -> Trained:
        """To which area does a docstring belong?"""
        return self.run(
            name,
            "train",
            base,
            dataset={"test": self._rows("test")},
            method={"sft": {}},
            adapter=adapter,
            training={"batchSize": 16, **training},
            evaluation={"metrics": ["Loss", "Accuracy"], "labels": list(LABELS)},
        )


def main() -> None:
    """Pretrain, search, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, serve(_made(Path(scratch) / "s3")) as server:
        bench = Bench(_stored(server), Path(scratch))
        server.secret(bench.folder / "secrets" / "s3")
        spec = yaml.safe_load(PRETRAINED.read_text())["spec"]
        members = {name: spec[name] for name in ("baseModel", "method", "training")}
        made = bench.run("base", "pretrain", None, **members).artifact
        base = ResolvedBaseModel.model_validate({"uri": made.uri, "digest": made.digest, "secretRef": {"name": "s3"}})
        print("adapter   rate      of the found  loss    accuracy", flush=True)
        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(lambda adapter: compare(bench, base, adapter, options), ADAPTERS))


def compare(bench: Bench, base: ResolvedBaseModel, adapter: dict[str, Any], options: argparse.Namespace) -> None:
    """Print a line of figures for the rate that is found, and for each neighbour."""
    kind, steps = adapter["type"], {"maxSteps": options.steps}
    searched = bench.tune(f"{kind.lower()}-searched", base, adapter, {**steps, "learningRateSearch": {}})
    assert searched.learning_rate is not None
    found = float(searched.learning_rate.value)
    print(f"{kind}: {searched.learning_rate.reason}", flush=True)
    _print(kind, found, 1.0, searched)

    def neighbour(factor: float) -> None:
        rate = min(1.0, float(f"{found * factor:.2g}"))
        tuned = bench.tune(f"{kind.lower()}-{factor:.0e}", base, adapter, {**steps, "learningRate": rate})
        _print(kind, rate, factor, tuned)

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(neighbour, NEIGHBOURS))


def _print(kind: str, rate: float, factor: float, trained: Trained) -> None:
    assert trained.evaluation is not None
    tuned = trained.evaluation.tuned
    print(f"{kind:9} {rate:<9.2g} {factor:<13.2g} {tuned['Loss']:<7.3f} {tuned['Accuracy']:.3f}", flush=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _stored(server: S3Server) -> str:
    bucket = server.bucket("rates")
    for name, rows in files().items():
        body = "".join(json.dumps(row) + "\n" for row in rows).encode()
        server.client().put_object(Bucket="rates", Key=f"rows/{name}", Body=body)
    return bucket


if __name__ == "__main__":
    main()
