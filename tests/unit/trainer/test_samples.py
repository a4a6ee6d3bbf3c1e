"""What is shown of rows holds no secret."""

from finetune_api.v1alpha1.finetunejob_status import EvaluationStatus
from finetune_stage.rows import Row
from finetune_stage.scores import EvaluationFile, RowScore
from finetune_trainer.samples import LONGEST, samples, shareable


def score(answer: str | None) -> RowScore:
    return RowScore(id="a", nll=1.0, tokens=1, answer=answer)


def test_a_row_with_a_secret_anywhere_is_not_shown() -> None:
    assert shareable("mail ada@example.org") is None
    rows = [
        Row("a", {"prompt": "mail ada@example.org", "completion": " yes"}),
        Row(
            "b",
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello"},
                ]
            },
        ),
        Row("c", {"prompt": "not answered", "completion": " yes"}),
    ]
    summary = EvaluationStatus(split="test", rows=3, tuned={})
    scores = [score("yes"), score("Hello"), score(None)]
    file = EvaluationFile(summary=summary, seed=1, base=[score("no"), score("Hm"), score(None)], tuned=scores)
    [shown] = samples(rows, file)
    assert shown == ("system: Be kind.\n\nuser: Hi", "Hello", "Hm", "Hello")


def test_a_long_answer_is_cut() -> None:
    assert len(shareable("word " * LONGEST) or "") == LONGEST + 2
