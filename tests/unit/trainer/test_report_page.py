"""report.html stands alone, shows what there is, and escapes what a job brings along."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from finetune_api.artifacts import PreparedSplit, RateSearch, Resolved, ResolvedAdapterSpec
from finetune_api.data_report import DataReport, InvalidRow
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob_status import (
    Choice,
    Diagnosis,
    EvaluationStatus,
    GateResult,
    MemoryMeasured,
    MemoryPlan,
    PlanStatus,
    ResolvedBaseModel,
    SplitStatistics,
    SuiteStatus,
)
from finetune_stage.page import Contents, Sample, data_page, page
from finetune_stage.page.curves import curve
from finetune_stage.scores import EvaluationFile, Gain, SuiteScores
from prepared_jobs import spec_of, training

VOID = {"meta", "br"}
METRICS: list[dict[str, float | str]] = [
    {
        "step": s,
        "loss": 2.0 / s,
        "learningRate": 1e-4,
        "gradNorm": 1.0,
        "tokens": s,
        "tokensPerSecond": 9.0,
        "time": "now",
    }
    for s in range(1, 9)
]
SUMMARY = EvaluationStatus(
    split="test",
    rows=90,
    base={"Loss": 2.0, "Accuracy": 0.9},
    tuned={"Loss": 1.5, "Accuracy": 0.8},
    gate=[GateResult(metric="Loss", passed=False, message="Loss is 1.5 on 90 rows: at most 1: no")],
)

SPLIT: dict[str, Any] = {
    "name": "train",
    "rows": 40,
    "tokens": 900,
    "longest": 48,
    "median": 20,
    "p99": 47,
    "truncatedRows": 0,
    "truncatedTokens": 0,
    "lengths": [{"upTo": 24, "rows": 30}, {"upTo": 48, "rows": 10}],
    "answerLengths": [],
    "languages": [],
    "languageRows": 0,
    "refusedAnswers": 0,
    "labels": [{"name": "<net>", "rows": 25}, {"name": "os", "rows": 15}],
    "secrets": [],
    "personalData": [],
}
DATA = DataReport.model_validate(
    {
        "format": "Alpaca",
        "preparedFormat": "PromptCompletion",
        "maxLength": 64,
        "sources": [],
        "rowsRead": 44,
        "invalid": 0,
        "invalidRows": [],
        "duplicates": 4,
        "nearDuplicates": 0,
        "outOfRange": 0,
        "overlaps": [{"name": "general", "rows": 2}],
        "contaminated": 0,
        "splits": [SPLIT],
    }
)
MEMORY = {name: 1 for name in MemoryPlan.model_fields} | {
    "gpu": "H200",
    "allocated_bytes": 10 * 2**30,
    "reserved_bytes": 11 * 2**30,
}
FORECAST = PlanStatus(choices=[], steps=8, memory=MemoryPlan(**MEMORY), estimated_seconds=2)


def contents(
    summary: EvaluationStatus | None = SUMMARY, reason: str = "usual", evaluation: EvaluationFile | None = None
) -> Contents:
    split = SplitStatistics(name="train", rows=2400)
    resolved = Resolved(
        namespace="team-a",
        name="tiny",
        uid="u",
        method="sft",
        format="Messages",
        base_model=ResolvedBaseModel(uri="hf://owner/base"),
        dataset=spec_of("s3://bucket").dataset,
        splits=[PreparedSplit(file="data/train.jsonl", sha256="0" * 64, statistics=split)],
        data_digest="sha256:" + "a" * 64,
        adapter=ResolvedAdapterSpec(type="LoRA"),
        training=training(),
        evaluation=EvaluationSpec(),
        choices=[Choice(field="training.epochs", value="3", reason=reason)],
        forecast=FORECAST,
        output_folder="s3://bucket/tiny",
    )
    found = [Diagnosis(kind="DataTooSmall", message="There are 40 training rows.")]
    confusion = {"red": {"red": 5, "blue": 2}}
    return Contents(
        resolved,
        METRICS,
        summary,
        confusion,
        found,
        {"torch": "2.11"},
        samples=[Sample("Which <i>area</i>?", "net", "a story", "net"), Sample("And now?", "os", None, "net")],
        data=DATA,
        peak=MemoryMeasured(allocated_bytes=9 * 2**30, reserved_bytes=11 * 2**30),
        search=RateSearch(
            learning_rate=3e-4, reason="a tenth of <0.003>", rates=[1e-6, 1e-4, 1e-2], losses=[2.0, 1.0, 1.5]
        ),
        evaluation=evaluation,
    )


class Balanced(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass


@pytest.mark.parametrize("summary", [SUMMARY, None], ids=["evaluated", "not evaluated"])
def test_the_page_is_whole_and_asks_no_network(summary: EvaluationStatus | None) -> None:
    text = page(contents(summary))
    reader = Balanced()
    reader.feed(text)
    assert reader.open == []
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|@import", text)


def test_the_page_shows_what_the_job_came_to() -> None:
    text = page(contents())
    for shown in ("gate failed", "at most 1: no", "DataTooSmall", "Training loss", "Gradient norm", "2,400", "torch"):
        assert shown in text
    assert '<span class="good">-0.5</span>' in text, "a lower loss is better"
    assert '<span class="bad">-0.1</span>' in text, "a lower accuracy is worse"


def test_the_page_says_how_sure_a_change_is_and_what_serves_today() -> None:
    suite = SuiteStatus(name="general", rows=80, base={"Loss": 1.0}, tuned={"Loss": 1.25})
    summary = SUMMARY.model_copy(update={"previous": {"Loss": 1.75}, "suites": [suite]})
    file = EvaluationFile(
        summary=summary,
        seed=1,
        tuned=[],
        gains={"Loss": Gain(low=0.25, value=0.5, high=0.75)},
        gains_on_previous={"Loss": Gain(low=-0.125, value=0.25, high=0.625)},
        suites={"general": SuiteScores(tuned=[], gains={"Loss": Gain(low=-0.5, value=-0.25, high=-0.125)})},
        cut_prompts=3,
    )
    text = page(contents(summary, evaluation=file))
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", text)
    between = heads[: heads.index("Metric", 1)]
    assert between == [
        "Metric",
        "Base",
        "Previous",
        "Tuned",
        "Change",
        "95 % interval of the change",
        "95 % interval of the change from the previous",
    ]
    loss = re.search("<tr><td>Loss</td>.*?</tr>", text)
    assert loss is not None
    assert re.findall(r">([^<>]+)<", loss[0]) == [
        "Loss",
        "2",
        "1.75",
        "1.5",
        "-0.5",
        "-0.75 to -0.25",
        "-0.625 to +0.125",
    ]
    assert "+0.125 to +0.5" in text, "the suite's"
    assert "Of 3 prompts the beginning was not read" in text
    assert "95 %" not in page(contents()), "nothing was drawn"


def test_the_page_shows_answers_data_and_plan() -> None:
    text = page(contents())
    for shown in (
        "a story",
        "Which &lt;i&gt;area",
        "&lt;net&gt;",
        "to 48",
        "44 rows read · 4 duplicates",
        "share text with general",
    ):
        assert shown in text
    assert text.count("✓") == 1, "the one answer that is the reference"
    assert (
        "<tr><td>Peak memory, allocated (GiB)</td><td class=number>10</td><td class=number>9</td><td class=number>+11%</td></tr>"
        in text
    )
    assert "<td>Training (seconds)</td><td class=number>2</td><td class=number>0.8889</td>" in text, (
        "8 tokens at 9 a second"
    )


def test_the_page_of_the_data_is_whole_and_escapes_what_it_shows() -> None:
    finding = {"file": "<a>.jsonl", "place": "line 7", "field": "x", "found": "null", "expected": "a string"}
    seen = DATA.model_copy(update={"invalid": 1, "invalid_rows": [InvalidRow.model_validate(finding)]})
    text = data_page(seen, "team-a/<tiny>")
    reader = Balanced()
    reader.feed(text)
    assert reader.open == []
    for shown in ("team-a/&lt;tiny&gt;", "&lt;a&gt;.jsonl", "Rows beyond 64 tokens", "Rows of a class (train)"):
        assert shown in text


def test_what_a_job_brings_along_is_text() -> None:
    assert "<b>bold</b>" not in page(contents(reason="<b>bold</b>"))


@pytest.mark.parametrize("values", [[5.0, 5.0, 5.0], [0.0, 0.0], [1e-7, 3e-4], [-3.0, 8e9], [1e30, 2e30]])
def test_a_curve_stays_within_its_frame(values: list[float]) -> None:
    drawn = curve("Loss", [(float(step), value) for step, value in enumerate(values)])
    points = re.search(r'<polyline class="line" points="([^"]+)"', drawn)
    assert points is not None
    for pair in points[1].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 480
        assert 0 <= y <= 220


def test_a_search_is_drawn_over_its_rates() -> None:
    drawn = page(contents())
    assert "Loss over the learning rate" in drawn
    assert all(f">{rate}</text>" in drawn for rate in ("1e-06", "0.0001", "0.01"))
    assert "0.0003: a tenth of &lt;0.003&gt;" in drawn


def test_one_point_is_no_curve() -> None:
    assert curve("Loss", [(1.0, 2.0)]) == ""
