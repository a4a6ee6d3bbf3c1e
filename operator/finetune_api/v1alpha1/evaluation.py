"""How the result is judged: metrics, and the gate's rules."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, ShortText, Uri, cel, exactly_one
from finetune_api.v1alpha1.dataset import ROWS_URI
from finetune_api.v1alpha1.references import EarlierAdapter, SecretRef
from finetune_api.v1alpha1.reinforcement import JsonSchemaReward, RegexReward

Metric = Literal[
    "Loss",
    "Perplexity",
    "ExactMatch",
    "Accuracy",
    "MacroF1",
    "PreferenceAccuracy",
    "RewardMargin",
    "Reward",
    "TokenF1",
    "Bleu",
    "Chrf",
    "Rouge1",
    "Rouge2",
    "RougeL",
    "FormatCompliance",
    "LatencyP50Seconds",
    "LatencyP95Seconds",
]
Baseline = Literal["Base", "MajorityClass"]


class AnswerFormat(ApiModel):
    """What an answer must look like; exactly one of regex and jsonSchema."""

    model_config = ConfigDict(json_schema_extra=cel(exactly_one("regex", "jsonSchema")))

    regex: RegexReward | None = None
    """A pattern that is found in the answer."""
    json_schema: JsonSchemaReward | None = None
    """A schema that accepts the answer, which is JSON."""


SuiteMetric = Literal["Loss", "Perplexity", "ExactMatch", "TokenF1", "Bleu", "Chrf", "Rouge1", "Rouge2", "RougeL"]


class EvaluationSuite(ApiModel):
    """Rows of another task, which the tuned model must not unlearn: base and tuned model are compared on them too."""

    model_config = ConfigDict(json_schema_extra=cel(ROWS_URI))

    name: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$")]
    """What gate and report call it."""
    uri: Uri
    """Its files: rows of Messages, PromptCompletion or Text, or of what becomes one of them, told by the first row's fields."""
    secret_ref: SecretRef | None = None
    """Credentials to read them."""
    metrics: Annotated[list[SuiteMetric], Field(min_length=1, max_length=4)] | None = None
    """Metrics to compute; left out, Loss. Those of answers need rows with answers."""
    max_rows: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Rows to use, the first ones; left out, all."""


class GenerationSpec(ApiModel):
    """How base and tuned model write the answers that are measured."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.topP) || (has(self.temperature) && self.temperature > 0.0)",
                "topP is for sampled answers: set temperature above 0",
            ),
        )
    )

    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Longest answer; left out, that of the longest reference answer."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0: the most probable token each time (greedy). Above, answers are sampled with training.seed. Left out, 0."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sample from the most probable tokens that together have this probability; left out, 1."""
    stop_strings: Annotated[list[ShortText], Field(min_length=1, max_length=8)] | None = None
    """Texts before which an answer ends, beside the model's own end tokens."""
    max_rows: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Held-out rows that are answered, the first ones; likelihoods are of all rows. Left out, at most 1000."""


class GateRule(ApiModel):
    """One thing the tuned model must reach on the test rows."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "[has(self.min), has(self.max), has(self.maxRatioToBase), has(self.minDeltaVersusBase), has(self.maxDropVersusBase), has(self.maxDropVersusPrevious), has(self.beats)].exists(x, x)",
                "say what the metric must reach: min, max, maxRatioToBase, minDeltaVersusBase, maxDropVersusBase, maxDropVersusPrevious or beats",
            ),
            (
                "!has(self.suite) || self.metric in ['Loss', 'Perplexity', 'ExactMatch', 'TokenF1', 'Bleu', 'Chrf', 'Rouge1', 'Rouge2', 'RougeL']",
                "a suite is measured by Loss, Perplexity, ExactMatch, TokenF1, Bleu, Chrf, Rouge1, Rouge2 and RougeL",
            ),
            (
                "!has(self.suite) || !has(self.maxDropVersusPrevious)",
                "the previous adapter is compared on the held-out rows, not on a suite",
            ),
            (
                "!has(self.suite) || !has(self.beats) || !self.beats.exists(b, b == 'MajorityClass')",
                "a suite has no training rows, so that there is no MajorityClass to beat",
            ),
            (
                "!has(self.beats) || !self.beats.exists(b, b == 'MajorityClass') || self.metric in ['ExactMatch', 'Accuracy']",
                "beats MajorityClass is for ExactMatch and Accuracy",
            ),
            (
                "!self.metric.startsWith('Latency') || !(has(self.min) || has(self.maxRatioToBase) || has(self.minDeltaVersusBase) || has(self.maxDropVersusBase) || has(self.maxDropVersusPrevious) || has(self.beats))",
                "a latency is another in every run: a gate on it takes max only",
            ),
        )
    )

    metric: Metric
    """Metric it is about."""
    suite: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    """The suite whose rows decide, by its name; left out, the held-out rows."""
    min: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Lowest accepted value."""
    max: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Highest accepted value."""
    max_ratio_to_base: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Highest accepted tuned / base."""
    min_delta_versus_base: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """The lower bound of the 95 % paired bootstrap interval of the improvement on the base must be at least this. Of Loss and
    Perplexity the improvement is base - tuned, of every other metric tuned - base."""
    max_drop_versus_base: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """Not worse than the base by more than this beyond chance: the lower bound of the same interval must be at least minus this."""
    max_drop_versus_previous: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """The same beside evaluation.previous."""
    beats: Annotated[list[Baseline], Field(min_length=1, max_length=2)] | None = None
    """The lower bound of the 95 % paired bootstrap interval of (tuned - baseline) must be above zero."""


class EvaluationSpec(ApiModel):
    """How base and tuned model are compared on the held-out rows."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.compareWithBase || !has(self.gate) || !self.gate.exists(g, has(g.maxRatioToBase) || has(g.minDeltaVersusBase) || has(g.maxDropVersusBase) || has(g.beats))",
                "a gate against the base needs compareWithBase: true",
            ),
            (
                "has(self.answerFormat) || ((!has(self.metrics) || !self.metrics.exists(m, m == 'FormatCompliance'))"
                " && (!has(self.gate) || !self.gate.exists(g, g.metric == 'FormatCompliance')))",
                "FormatCompliance needs answerFormat: regex or jsonSchema",
            ),
            (
                "!has(self.gate) || self.gate.all(g, !has(g.suite) || (has(self.suites) && self.suites.exists(s, s.name == g.suite)))",
                "a gate rule's suite is the name of one of evaluation.suites",
            ),
            (
                "has(self.previous) || !has(self.gate) || !self.gate.exists(g, has(g.maxDropVersusPrevious))",
                "maxDropVersusPrevious needs evaluation.previous: the adapter to compare with",
            ),
            (
                "!has(self.suites) || self.suites.all(s, self.suites.exists_one(t, t.name == s.name))",
                "every suite has a name of its own",
            ),
            (
                "!has(self.maxNewTokens) || !has(self.generation) || !has(self.generation.maxNewTokens)",
                "maxNewTokens is stated twice: leave evaluation.maxNewTokens out",
            ),
        )
    )

    metrics: Annotated[list[Metric], Field(min_length=1, max_length=16)] | None = None
    """Metrics to compute; left out, Loss and Perplexity, for sft also ExactMatch, with labels also Accuracy and MacroF1. For
    preferences PreferenceAccuracy, the share of pairs whose chosen answer is the more probable one (reward: scores higher), and
    RewardMargin, by how much on average (in nats; reward: in the head's units, before training those of a random head). For ppo and
    grpo also ExactMatch and Reward. With answerFormat also FormatCompliance. Named only: TokenF1, Rouge1, Rouge2 and RougeL (0 to 1),
    Bleu and Chrf (0 to 100, of all rows together), LatencyP50Seconds and LatencyP95Seconds."""
    labels: Annotated[list[ShortText], Field(min_length=2, max_length=256)] | None = None
    """The allowed answers, but for classification, whose classes are those of its rows; Accuracy is the share of rows whose most
    probable label is the right one (of texts with several classes: all of them), MacroF1 the mean of the labels' F1."""
    answer_format: AnswerFormat | None = None
    """What answers must look like; FormatCompliance is the share of the written answers that do."""
    compare_with_base: bool = True
    """Evaluate the base on the same rows."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The same as generation.maxNewTokens."""
    generation: GenerationSpec | None = None
    """How answers are written; left out, greedily, as long as the longest reference answer, to at most 1000 held-out rows."""
    samples: Annotated[int, Field(ge=0, le=20)] | None = None
    """Held-out prompts that report.html shows with the answers of base and tuned model; a row in which something looks like a secret
    or like personal data is left out. Left out, 5 where answers are written."""
    previous: EarlierAdapter | None = None
    """The adapter that serves today, or another of the same base: evaluated on the same held-out rows."""
    suites: Annotated[list[EvaluationSuite], Field(min_length=1, max_length=4)] | None = None
    """Rows of other tasks, to see what is forgotten. What they share with the training rows is counted in the data report."""
    gate: Annotated[list[GateRule], Field(min_length=1, max_length=16)] | None = None
    """All must hold, or the job ends as GateFailed: its artifact is kept and marked, and no deployment accepts it."""

    def asks_held_out_rows(self) -> list[str]:
        """Names of the stated members that are about the held-out rows: without any they would be ignored. Labels are not among
        them, as the training rows are checked by them, and a suite has metrics of its own."""
        stated = self.wire()
        members = ("metrics", "answerFormat", "maxNewTokens", "generation", "samples", "previous")
        asked = [name for name in members if stated.get(name)]
        return [*asked, "gate"] if any(rule.suite is None for rule in self.gate or ()) else asked


def rows_refusal(evaluation: EvaluationSpec) -> str | None:
    """Why an evaluation cannot be carried out where no rows are held out, as a sentence; None where it can."""
    asked = evaluation.asks_held_out_rows()
    if not asked:
        return None
    need, them = ("needs", "it") if len(asked) == 1 else ("need", "them")
    return (
        f"{' and '.join(f'evaluation.{name}' for name in asked)} {need} held-out rows, and the dataset names none: set dataset.test, "
        f"dataset.validation, dataset.split.test or dataset.split.validation, or leave {them} out."
    )
