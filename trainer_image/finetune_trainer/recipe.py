"""The train stage: prepared data and a base model in, a tuned, evaluated, published artifact out.

Reads only what the prepare stage wrote. An attempt may end at any point; the next one goes on from what is stored.
"""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from finetune_api.pods import JobConfig, Trained
from finetune_stage.outcome import Places
from finetune_stage.record import published
from finetune_stage.report import Reporter, destination
from finetune_stage.rows import open_output
from finetune_trainer.checkpoints import Checkpoints
from finetune_trainer.inputs import Inputs, read_inputs
from finetune_trainer.interruption import Interruption
from finetune_trainer.machine import Numerics, choose_numerics, naming_memory, pin_threads
from finetune_trainer.mlflow_live import Live
from finetune_trainer.progress import Progress
from finetune_trainer.publish import Outcome, publish
from finetune_trainer.world import World, world_of

QUIET = {
    "DISABLE_KUBEFLOW_INTEGRATION": "TRUE",  # our own thread speaks that contract, and never slows a step
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # hardly any fragmentation: the memory plan rests on it
}

LESS_BESIDE_TRAINING = (
    "the micro batch does not matter here: a larger GPU (on a CPU more memory) helps, or where it is the evaluation a shorter "
    "training.maxLength, evaluation.maxNewTokens or evaluation.generation.maxRows"
)


def run(config: JobConfig, places: Places, attempt: int, micro_batch_divisor: int) -> Trained | None:
    """Carry the train stage out, or what an earlier attempt left of it; its outcome, and of several processes only the first's."""
    with Interruption() as interruption:
        store = open_output(config, places)
        if (earlier := published(store)) is not None:
            return earlier
        inputs = read_inputs(store, places)
        print(f"attempt {attempt}: {len(inputs.splits['train'])} training rows read", flush=True)
        os.environ |= QUIET
        warnings.filterwarnings("ignore", category=FutureWarning)  # between libraries; nothing a user can act on
        pin_threads()
        with naming_memory("loading, evaluating or storing the model", LESS_BESIDE_TRAINING):
            return _learn(config, inputs, micro_batch_divisor, interruption)


def _learn(config: JobConfig, inputs: Inputs, divisor: int, interruption: Interruption) -> Trained | None:
    # Imported here: torch and its libraries take seconds, and must see the environment set above.
    from finetune_trainer import compare, methods, model, optimizer, reward_model, rewards, sharding, suites, train
    from finetune_trainer.methods.lesson import Lesson

    method = methods.load(inputs.resolved.method)
    numerics, world = choose_numerics(inputs.resolved.training.precision, _gpus(config)), world_of()
    world.join(numerics.device)
    folder = model.fetch_base(inputs, world)
    if inputs.resolved.training.learning_rate_search is not None:
        inputs = _with_found_rate(inputs, folder, numerics, divisor)
    resolved, training = inputs.resolved, inputs.resolved.training
    base = model.load_base(inputs, folder, numerics)
    judge = rewards.judge(resolved.method_settings, reward_model.scorer(inputs, numerics.device))
    encoder, dataset, watched, stops = _material(inputs, base, world)
    exam = compare.make_exam(inputs, encoder, stops, judge) if world.is_first else None
    asked = suites.exams(inputs, base) if base.writes and world.is_first else {}
    before = _before(base.model, exam, asked, inputs, numerics, method.score)
    world.wait()  # for the first one's evaluation of the base
    tuned = sharding.spread(_learner(base, inputs, world), resolved.adapter.type, numerics, world)
    with _told(inputs, world) as (progress, live):
        arguments = train.arguments(training, numerics, divisor, inputs.work, world)
        trainer = method.trainer(Lesson(tuned, base.tokenizer, dataset, arguments, resolved, stops, judge, watched))
        watch = compare.validation(inputs, watched, numerics, method.score, trainer.own_loss)
        with Checkpoints(inputs.store, training.keep_checkpoints, progress) as checkpoints:
            course = train.train(trainer, train.Companions(progress, checkpoints, interruption, world, watch), resolved)
        optimizer.release(trainer)
        tuned = sharding.made_whole(tuned, trainer, world)
        if not world.leave():
            return None
        tuned = model.round_off(tuned, resolved.adapter, base.stored_dtype)
        others = compare.Others(suites.tuned_scores(tuned, asked, before.suites, numerics), before.previous)
        evaluation = compare.compare(tuned, exam, before.scores, inputs, numerics, method.score, others)
        live.rest()  # the publishing sends the rest
        tuned = model.settle(tuned, resolved.adapter, base.stored_dtype)
        trained = publish(tuned, base.tokenizer, inputs, Outcome(course, evaluation, stops), config.image)
        progress.published()
        return trained


@contextmanager
def _told(inputs: Inputs, world: World) -> Iterator[tuple[Progress, Live]]:
    """The operator and a tracker hear of the course; of several processes only the first speaks."""
    first, steps = world.is_first, inputs.resolved.training.steps
    with Reporter(destination(os.environ) if first else None) as reporter, Live(inputs if first else None) as live:
        yield Progress(inputs.store, inputs.work, steps, reporter, live.news), live


def _with_found_rate(inputs: Inputs, folder: Path, numerics: Numerics, divisor: int) -> Inputs:
    """After the search for a learning rate, whose model and trainer are gone."""
    from finetune_trainer import methods, model, rate_search, train
    from finetune_trainer.methods.lesson import Lesson

    def trainer_of(trial: Inputs) -> Any:
        base = model.load_base(trial, folder, numerics)
        _, dataset, _, stops = _material(trial, base, World())
        arguments = train.arguments(trial.resolved.training, numerics, divisor, trial.work, World())
        tuned = _learner(base, trial, World())
        lesson = Lesson(tuned, base.tokenizer, dataset, arguments, trial.resolved, stops, judge=None)
        return methods.load(trial.resolved.method).trainer(lesson)

    with Reporter(destination(os.environ)) as reporter:
        found = rate_search.with_found_rate(inputs, trainer_of, reporter)
    gc.collect()  # a trainer and its model hold each other
    return found


def _material(inputs: Inputs, base: Any, world: World) -> tuple[Any, Any, Any, list[int]]:
    """How rows become tokens, the training rows as such, those whose loss is watched meanwhile, and the tokens that end an answer."""
    from finetune_trainer import encode, methods
    from finetune_trainer.methods.lesson import HeldOut

    resolved, rows = inputs.resolved, [row.fields for row in inputs.splits["train"]]
    answers_only, new_tokens = resolved.training.assistant_only_loss, resolved.adapter.new_tokens
    encoder = encode.encoder(base.tokenizer, resolved.format, answers_only, new_tokens, resolved.day)
    dataset = methods.load(resolved.method).dataset(encoder, rows, resolved)
    watched = HeldOut(encoder, inputs.splits["validation"], world) if resolved.training.evaluate_every_steps else None
    ends = base.model.generation_config.eos_token_id if base.writes else None
    return encoder, dataset, watched, encode.stop_tokens(encoder, rows[0], ends) if base.writes else []


def _gpus(config: JobConfig) -> int:
    """Those each pod asked for."""
    kubernetes = config.spec.backend.kubernetes if config.spec.backend else None
    return (kubernetes.gpus if kubernetes else None) or 0


def _learner(base: Any, inputs: Inputs, world: World) -> Any:
    """The base with what learns."""
    from finetune_trainer import adapter, initial

    resolved = inputs.resolved
    if resolved.adapter.initial is not None:
        return initial.continued(base.model, inputs, world)
    kind = "CAUSAL_LM" if base.writes else "SEQ_CLS"
    fresh = adapter.Fresh(base.fresh, base.new_rows)
    return adapter.add_adapter(base.model, resolved.adapter, resolved.training.seed, kind, fresh)


class _Before(NamedTuple):
    """What the base, and an earlier adapter on it, make of the rows that are asked."""

    scores: Any
    suites: Any
    previous: Any


def _before(base: Any, exam: Any, asked: Any, inputs: Inputs, numerics: Numerics, score: Any) -> _Before:
    from finetune_trainer import compare, previous, suites

    return _Before(
        compare.base_scores(base, exam, inputs, numerics, score),
        suites.base_scores(base, asked, inputs, numerics),
        previous.scores(base, inputs, lambda it: score(it, exam, numerics)) if exam else None,
    )
