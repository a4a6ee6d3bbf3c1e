"""A suite's rows from the store to the verdict: prepared, compared with the training rows, scored under both models, judged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.artifacts import EVALUATION, PreparedSuite, ResolvedAdapterSpec, job_folder
from finetune_api.data_report import DataReport
from finetune_api.pods import JobConfig
from finetune_api.reasons import Failure
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_stage.outcome import Places
from finetune_stage.rows import Row
from finetune_stage.scores import EvaluationFile
from finetune_storage import Store, open_store
from finetune_trainer import prepare, recipe, suites
from finetune_trainer.data.suites import prepare_suites
from json_lines import stored
from prepared_jobs import colour_rows, training
from tiny_models import tiny_tokenizer, write_tiny_llama

S3 = {"name": "s3"}
LONG = "Whoever walks along the river in the early morning hears the herons long before the fog lets anyone see them"
GENERAL = [
    {"text": f"{LONG}."},
    *({"text": f"On day {i} of {i * i}, quickly the wizard jumps over {i} vexed boxes of jam."} for i in range(23)),
]


def a_job(bucket: str, secret: Path, work: Path, suite: dict[str, object], store: Store) -> tuple[JobConfig, Places]:
    base = write_tiny_llama(work / "made")
    for path in base.iterdir():
        store.upload(path, f"base/{path.name}")
    train = [*colour_rows(47), {"prompt": f"{LONG}.", "completion": " red"}]
    spec = FineTuneJobSpec.model_validate(
        {
            "baseModel": {"uri": f"{bucket}/base", "secretRef": S3},
            "dataset": {
                "train": stored(store, "train.jsonl", train),
                "test": stored(store, "test.jsonl", colour_rows(8, 60)),
            },
            "adapter": {"type": "Full"},
            "training": {
                "maxSteps": 16,
                "checkpointEverySteps": 16,
                "batchSize": 8,
                "learningRate": 3e-2,
                "maxLength": 96,
                "precision": "Float32",
            },
            "evaluation": {
                "metrics": ["Loss"],
                "suites": [suite],
                "gate": [
                    {"metric": "Loss", "max": 100},
                    {"metric": "Loss", "suite": "general", "maxDropVersusBase": 0.01},
                ],
            },
            "output": {"uri": bucket, "secretRef": S3},
        }
    )
    reference = ResolvedBaseModel.model_validate(spec.base_model.wire())
    config = JobConfig(namespace="team-a", name="tiny", uid="u", spec=spec, base_model=reference, image="trainer")
    return config, Places(secrets_dir=secret.parent, work_dir=work / "pod", secret_wait=1)


def test_what_is_forgotten_is_seen_and_fails_the_gate(bucket: str, secret: Path, tmp_path: Path) -> None:
    store = open_store(bucket, secret)
    suite = {"name": "general", **stored(store, "general.jsonl", GENERAL), "maxRows": 16}
    config, places = a_job(bucket, secret, tmp_path, suite, store)
    prepared = prepare.run(config, places)
    assert prepared.dataset.overlapping == 1
    folder = open_store(job_folder(bucket, "team-a", "tiny", "u"), secret)
    report = DataReport.model_validate_json(folder.get("data/report.json"))
    assert ("general", 0) not in [(each.name, each.rows) for each in report.overlaps]
    trained = recipe.run(config, places, 1, 1)
    assert trained.evaluation is not None
    [found] = trained.evaluation.suites or []
    assert (found.name, found.rows) == ("general", 16)
    assert found.base is not None
    assert found.tuned["Loss"] > found.base["Loss"] + 0.1
    assert [result.passed for result in trained.evaluation.gate or []] == [True, False], trained.evaluation.gate
    assert not trained.gate_passed
    assert "Forgetting" in [each.kind for each in trained.evaluation.diagnosis or []]
    file = EvaluationFile.model_validate_json(folder.get(EVALUATION))
    assert file.suites is not None
    assert len(file.suites["general"].tuned) == len(file.suites["general"].base or []) == 16
    assert (file.suites["general"].gains or {})["Loss"].high < 0
    assert file.suites["general"].cut_prompts is None, "nothing is answered"
    assert "Suite general" in folder.get("report.html").decode()


def test_a_job_that_holds_no_rows_out_is_judged_by_its_suites(bucket: str, secret: Path, tmp_path: Path) -> None:
    store = open_store(bucket, secret)
    suite = {"name": "general", **stored(store, "general.jsonl", GENERAL), "maxRows": 4}
    config, places = a_job(bucket, secret, tmp_path, suite, store)
    rule = {"metric": "Loss", "suite": "general", "max": 100}
    evaluation = EvaluationSpec.model_validate({"suites": [suite], "gate": [rule]})
    dataset = config.spec.dataset.model_copy(update={"test": None})
    assert config.spec.training is not None
    short = config.spec.training.model_copy(update={"max_steps": 2})
    spec = config.spec.model_copy(update={"dataset": dataset, "evaluation": evaluation, "training": short})
    config = config.model_copy(update={"spec": spec})
    prepare.run(config, places)
    trained = recipe.run(config, places, 1, 1)
    assert trained.gate_passed
    assert trained.evaluation is not None
    assert (trained.evaluation.rows, trained.evaluation.tuned) == (0, {})
    [result] = trained.evaluation.gate or []
    assert result.message.startswith("Loss is ")
    assert "on 4 rows of suite general" in result.message


def test_a_suite_without_answers_is_not_measured_by_them(bucket: str, secret: Path, tmp_path: Path) -> None:
    store = open_store(bucket, secret)
    suite = {"name": "general", **stored(store, "general.jsonl", GENERAL), "metrics": ["TokenF1"]}
    config, places = a_job(bucket, secret, tmp_path, suite, store)
    with pytest.raises(Failure, match=r"general: TokenF1 compares answers, and rows of Text have none; take Loss"):
        prepare.run(config, places)


@pytest.mark.parametrize(
    ("positions", "longest", "answer"),
    [
        pytest.param(2048, 2000, 600, id="those of the base, less virtual tokens"),
        pytest.param(148, 100, 50, id="an answer leaves half of them to the prompt"),
        pytest.param(131_072, 8_192, 600, id="bounded, as memory is"),
        pytest.param(None, 8_192, 600, id="without a limit"),
    ],
)
def test_a_suite_is_as_long_as_the_base_can_read(
    monkeypatch: pytest.MonkeyPatch, positions: int | None, longest: int, answer: int
) -> None:
    """The rows of another task need not be as short as the training's."""
    suite = PreparedSuite(
        name="general",
        file="f",
        sha256="0",
        rows=1,
        format="PromptCompletion",
        metrics=["ExactMatch"],
        max_new_tokens=600,
    )
    resolved = SimpleNamespace(
        suites=[suite],
        day=None,
        training=training(max_length=48),
        adapter=ResolvedAdapterSpec(type="Prompt", virtual_tokens=48),
    )
    inputs: Any = SimpleNamespace(resolved=resolved, store=None, places=None)
    config = SimpleNamespace(
        get_text_config=lambda: SimpleNamespace(model_type="llama", max_position_embeddings=positions)
    )
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=0), config=config)
    monkeypatch.setattr(suites, "read_file", lambda *_: [Row("1", colour_rows(1)[0])])
    exam = suites.exams(inputs, SimpleNamespace(model=model, tokenizer=tiny_tokenizer()))["general"]
    assert (exam.max_length, exam.max_new_tokens, exam.virtual_tokens) == (longest, answer, 48)


def test_a_row_that_is_none_is_refused_though_enough_others_follow(store: Store, secret: Path, tmp_path: Path) -> None:
    rows = stored(store, "general.jsonl", [GENERAL[0], {"text": 7}, *GENERAL[1:4]])
    evaluation = EvaluationSpec.model_validate({"suites": [{"name": "general", **rows, "maxRows": 2}]})
    with pytest.raises(Failure, match=r"evaluation.suites, general: .*line 2"):
        prepare_suites(
            evaluation, Places(secrets_dir=secret.parent, work_dir=tmp_path, secret_wait=1), tiny_tokenizer()
        )
