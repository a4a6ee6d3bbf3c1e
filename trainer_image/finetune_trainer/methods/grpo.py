"""Group-relative policy optimisation (Shao et al. 2024, DeepSeekMath): TRL's trainer, with our judge, on token ids of our own.

Every optimiser step samples new answers: with one pass over each batch of them, a checkpoint between two steps has
nothing to keep of the answers, and the RNG states in it make a resumed run sample what the uninterrupted one does.
"""

from typing import Any

from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from finetune_trainer.evaluate import score
from finetune_trainer.methods.lesson import Lesson, Watched
from finetune_trainer.methods.prompts import dataset
from finetune_trainer.rewards import Answer, answer_text

__all__ = ["dataset", "score", "trainer"]


class GroupTrainer(Watched, GRPOTrainer):  # type: ignore[misc]
    """TRL's, watched; prompts are token ids, and their order in an epoch depends on seed and epoch alone."""

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """As the encoder made them: TRL would write a first token of its own before a rendered chat."""
        return prompts, None, {}

    def _get_train_sampler(self, dataset: Any = None) -> "EpochSampler":
        found = super()._get_train_sampler(dataset)
        return EpochSampler(
            found.data_source, found.mini_repeat_count, found.batch_size, found.repeat_count, seed=found.seed
        )


class EpochSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's draws every epoch from where the last one left its generator: a resumed run would begin with the first again."""

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before every epoch."""
        self.generator.manual_seed(self.seed + epoch)


def trainer(lesson: Lesson) -> GroupTrainer:
    """One step: batchSize answers, numGenerations to each prompt."""
    settings = lesson.resolved.method_settings.grpo
    assert settings is not None
    adapter = lesson.resolved.adapter
    needs_reference = adapter.type == "Full" or adapter.initial is not None
    lesson.model.generation_config.eos_token_id = lesson.stop_tokens  # TRL ends answers at these
    config = GRPOConfig(
        **lesson.arguments | {"include_num_input_tokens_seen": "no"},  # TRL counts them itself
        num_generations=settings.num_generations,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        beta=settings.beta if needs_reference else 0.0,
        pad_to_multiple_of=None,
        disable_dropout=True,  # what is learned from is what was sampled
    )
    trainer = GroupTrainer(
        model=lesson.model,
        reward_funcs=[_reward(lesson)],
        args=config,
        train_dataset=lesson.dataset,
        processing_class=lesson.tokenizer,
    )
    # Given the weight at once, TRL keeps a copy of a fresh adapter as reference, which would be stored with every
    # checkpoint; the base with its adapter switched off, which it takes without one, is the same model. Not so where the
    # adapter is an earlier job's.
    trainer.beta = settings.beta
    return trainer


def _reward(lesson: Lesson) -> Any:
    judge = lesson.judge
    assert judge is not None

    def reward(prompts: Any, completions: Any, completion_ids: Any, reference: Any, **_: Any) -> list[float]:
        rows = zip(completion_ids, reference, prompts, strict=True)
        texts = (answer_text(lesson.tokenizer, ids, lesson.stop_tokens) for ids in completion_ids)
        return judge([Answer(text, right, prompt, ids) for text, (ids, right, prompt) in zip(texts, rows, strict=True)])

    return reward
