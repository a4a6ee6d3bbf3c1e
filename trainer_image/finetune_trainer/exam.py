"""What is asked of base and tuned model: rows, metrics, and how answers are written."""

from dataclasses import dataclass, field

from finetune_api.v1alpha1.evaluation import GenerationSpec, Metric
from finetune_stage.rows import Row
from finetune_trainer.encode import Encoder
from finetune_trainer.rewards import Judge, Reward


@dataclass(frozen=True)
class Exam:
    """The same for both models."""

    encoder: Encoder
    split: str
    rows: list[Row]
    metrics: frozenset[Metric]
    labels: tuple[str, ...]
    max_length: int
    """Of a row whose likelihood is measured, cut as the training cuts its rows; a prompt that is answered is as long as the base
    can read."""
    max_new_tokens: int
    """Of an answer."""
    stop_tokens: list[int]
    judge: Judge | None = None
    """For Reward."""
    keeps_format: Reward | None = None
    """For FormatCompliance."""
    generation: GenerationSpec = field(default_factory=GenerationSpec)
    """Temperature, stop strings and number of rows."""
    virtual_tokens: int = 0
    """That the tuned model puts before every row: the base's prompts leave room for them too, so that both read the same."""
    samples: int = 0
    """Answers that are kept to be shown, the first ones."""
    seed: int = 0
    """Of sampled answers, and of the intervals of what they come to."""
