"""Jobs as the prepare stage leaves them in object storage, for tests of the train stage alone."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from finetune_api.artifacts import (
    RESOLVED,
    Manifest,
    PreparedSplit,
    Resolved,
    ResolvedAdapterSpec,
    ResolvedTraining,
    job_folder,
)
from finetune_api.pods import JobConfig, Trained
from finetune_api.v1alpha1.base_model import FromConfig
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel, SplitStatistics
from finetune_api.v1alpha1.reinforcement import PpoMethod, RegexReward, RewardSpec
from finetune_api.v1alpha1.tracking import TrackingSpec
from finetune_api.v1alpha1.training import MethodSpec
from finetune_stage.outcome import Places
from finetune_storage import Store, commit_folder, document, open_store
from json_lines import jsonl
from stage_process import ForkedProgram, fork_stage
from tiny_models import tiny_tokenizer, write_tiny_llama

COLOURS = ("red", "green", "blue")
UID = "3b241101-e2bb-4255-8caf-4136c566a962"
TINY = FromConfig(
    architecture="Llama",
    vocabulary_size=320,
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    attention_heads=4,
    key_value_heads=2,
    max_position_embeddings=256,
    initializer_range=0.1,
)
Rows = list[dict[str, Any]]
PPO = PpoMethod(
    rewards=[RewardSpec(regex=RegexReward(pattern="[a-m]"))],
    max_new_tokens=1,
    temperature=1.0,
    kl_coefficient=0.0,
    clip_range=0.2,
    gamma=1.0,
    gae_lambda=0.95,
    epochs=2,
    value_coefficient=0.1,
)
"""Learned in a few steps: one letter of the first half of the alphabet."""
FULL = ResolvedAdapterSpec(type="Full")
LORA = ResolvedAdapterSpec(type="LoRA", rank=8, alpha=16, dropout=0.0)
QLORA = ResolvedAdapterSpec(type="QLoRA", rank=8, alpha=16, dropout=0.0)
FORMATS = {
    "Messages": {"messages"},
    "Preference": {"prompt", "chosen", "rejected"},
    "Unpaired": {"prompt", "completion", "label"},
    "PromptCompletion": {"prompt", "completion"},
    "Classification": {"text", "labels"},
    "Text": {"text"},
}
"""Members that tell a prepared format."""


def colour_rows(count: int, first: int = 0) -> Rows:
    """A task a tiny model learns in seconds: the answer is the colour named in the prompt."""
    numbers = range(first, first + count)
    return [{"prompt": f"{COLOURS[i % 3]} thing {i}\nColour:", "completion": f" {COLOURS[i % 3]}"} for i in numbers]


ROWS = {"train": colour_rows(96), "test": colour_rows(24, 200)}
"""Enough to learn it."""


def colour_chats(count: int, first: int = 0) -> Rows:
    """The same task as conversations."""
    return [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"].strip()},
            ]
        }
        for row in colour_rows(count, first)
    ]


def texts(count: int, first: int = 0) -> Rows:
    """Raw text."""
    return [{"text": row["prompt"] + row["completion"]} for row in colour_rows(count, first)]


def preferences(count: int, first: int = 0) -> Rows:
    """The colour named in the prompt is better than another one."""
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": f" {COLOURS[(first + place + 1) % len(COLOURS)]}",
        }
        for place, row in enumerate(colour_rows(count, first))
    ]


def classes(count: int, first: int = 0) -> Rows:
    """The class of a text is the colour it names."""
    return [{"text": row["prompt"], "labels": [row["completion"].strip()]} for row in colour_rows(count, first)]


def verdicts(count: int, first: int = 0) -> Rows:
    """The same preferences, each side with its verdict."""
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in preferences(count, first)
        for side in ("chosen", "rejected")
    ]


def training(**changes: Any) -> ResolvedTraining:
    """Hyperparameters of a short run on a tiny model."""
    defaults: dict[str, Any] = {
        "epochs": None,
        "max_steps": 8,
        "steps": 8,
        "learning_rate": 1e-2,
        "batch_size": 4,
        "micro_batch_size": 2,
        "max_length": 48,
        "scheduler": "Cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "precision": "Float32",
        "seed": 42,
        "checkpoint_every_steps": 2,
        "keep_checkpoints": 2,
        "packing": False,
        "assistant_only_loss": True,
    }
    return ResolvedTraining(**(defaults | changes))


def prepare_job(
    bucket: str,
    secrets_dir: Path,
    rows: dict[str, Rows],
    *,
    name: str = "tiny",
    method: str = "sft",
    method_settings: MethodSpec | None = None,
    adapter: ResolvedAdapterSpec | None = None,
    settings: ResolvedTraining | None = None,
    evaluation: EvaluationSpec | None = None,
    from_config: FromConfig | None = None,
    base: Path | ResolvedBaseModel | None = None,
) -> JobConfig:
    """Store a job's data and resolved.json, and a tiny base model unless it is stored already; its job.json."""
    fields = rows["train"][0]
    format_ = next(name for name, members in FORMATS.items() if members <= set(fields))
    folder = job_folder(bucket, "team-a", name, UID)
    base_model = ResolvedBaseModel() if from_config else base
    if not isinstance(base_model, ResolvedBaseModel):
        base_model = stored_base(bucket, secrets_dir, base_model)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        if from_config:
            tiny_tokenizer().save_pretrained(data / "tokenizer")
        splits = [_write(data, split, items) for split, items in rows.items()]
        store = open_store(folder, secrets_dir / "s3")
        digest = commit_folder(store, data, "data", Manifest(kind="Data", files=[]))
    spec = spec_of(bucket)
    resolved = Resolved(
        namespace="team-a",
        name=name,
        uid=UID,
        method=method,  # type: ignore[arg-type]
        method_settings=method_settings or MethodSpec(),
        format=format_,  # type: ignore[arg-type]
        base_model=base_model,
        from_config=from_config,
        dataset=spec.dataset,
        splits=splits,
        data_digest=digest,
        adapter=adapter or ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.1),
        training=settings or training(),
        evaluation=evaluation or EvaluationSpec(metrics=["Loss"]),
        choices=[],
        output_folder=folder,
    )
    store.put(RESOLVED, document(resolved))
    return JobConfig(namespace="team-a", name=name, uid=UID, spec=spec, base_model=base_model, image="trainer@sha256:0")


def spec_of(bucket: str) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(
        {
            "baseModel": {"uri": f"{bucket}/base"},
            "dataset": {"train": {"uri": f"{bucket}/train.jsonl"}},
            "output": {"uri": bucket, "secretRef": {"name": "s3"}},
        }
    )


def stored_base(bucket: str, secrets_dir: Path, base: Path | None) -> ResolvedBaseModel:
    """Store a base model, a tiny one where none is given; its reference."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = base or write_tiny_llama(Path(scratch) / "base")
        digest = commit_folder(open_store(bucket, secrets_dir / "s3"), folder, "base", Manifest(kind="Model", files=[]))
    ref = {"uri": f"{bucket}/base", "digest": digest, "secretRef": {"name": "s3"}}
    return ResolvedBaseModel.model_validate(ref)


def _write(folder: Path, split: str, rows: Rows) -> PreparedSplit:
    data = jsonl(rows)
    (folder / f"{split}.jsonl").write_bytes(data)
    return PreparedSplit(
        file=f"data/{split}.jsonl",
        sha256=hashlib.sha256(data).hexdigest(),
        statistics=SplitStatistics(name=split, rows=len(rows)),  # type: ignore[arg-type]
    )


def train_here(config: JobConfig, secrets_dir: Path, work: Path, divisor: int = 1) -> Trained:
    """The train stage in this process."""
    from finetune_trainer import recipe

    trained = recipe.run(config, Places(secrets_dir=secrets_dir, work_dir=work), 1, divisor)
    assert trained is not None, "this is the only process"
    return trained


def start_train(config: JobConfig, secrets_dir: Path, work: Path) -> ForkedProgram:
    """The train stage in a process of its own."""
    return fork_stage("finetune_trainer", "train", config, secrets_dir, work)


def lines_until(process: ForkedProgram, beginning: str) -> list[str]:
    """Output up to a line with this beginning. Raises AssertionError where the process ends before it."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    process.communicate(timeout=10)
    raise AssertionError(f"ended with {process.returncode}, without {beginning!r}:\n{''.join(lines)}")


def job_store(config: JobConfig, secrets_dir: Path) -> Store:
    """The job's folder."""
    output = config.spec.output
    return open_store(job_folder(output.uri, config.namespace, config.name, config.uid), secrets_dir / "s3")


def name_trackers(store: Store, trackers: dict[str, Any]) -> None:
    """As spec.tracking would have."""
    tracking = TrackingSpec.model_validate(trackers)
    resolved = Resolved.model_validate_json(store.get(RESOLVED)).model_copy(update={"tracking": tracking})
    store.put(RESOLVED, document(resolved))
