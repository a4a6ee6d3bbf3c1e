"""What the prepare stage finds in good rows: copies, test rows among those learned, lengths; and what it leaves out."""

from finetune_api.data_report import DataReport
from finetune_api.reasons import Reason
from finetune_storage import Store
from json_lines import jsonl
from prepare_stage import CHAT, Prepare, answers, dataset, rows_of


class TestQuality:
    LONG = " ".join(f"word{number}" for number in range(40))

    def report(self, store: Store) -> DataReport:
        return DataReport.model_validate_json(store.get("out/team-a/job/uid-1/data/report.json"))

    def test_near_copies_contamination_and_length(self, prepare: Prepare, store: Store, bucket: str) -> None:
        rows = [
            *answers(8),
            {"prompt": f"{self.LONG}?", "completion": " a"},
            {"prompt": f"{self.LONG}!", "completion": " a"},
            {"prompt": f"So, {self.LONG} and more of it, of which nobody knew anything at all?", "completion": " b"},
            {"prompt": "mail ada@example.org", "completion": " I cannot help with that."},
        ]
        store.put("suite.jsonl", jsonl([{"question": self.LONG, "id": 1}]))
        suites = [{"name": "exam", "uri": f"{bucket}/suite.jsonl", "secretRef": {"name": "s3"}}]
        quality = {"deduplicate": "Near", "suites": suites}
        found = prepare(rows, dataset=dataset(bucket, quality=quality)).prepared.dataset
        assert (found.near_duplicates, found.overlapping, found.contaminated, found.sensitive) == (1, 2, 0, 1)
        report = self.report(store)
        assert [(each.name, each.rows) for each in report.overlaps] == [("exam", 2)]
        assert [(source.rows, source.name) for source in report.sources] == [(12, f"{bucket}/data/train.jsonl")]
        (split,) = report.splits
        assert split.rows == 11
        assert split.refused_answers == 1
        assert [(each.name, each.rows) for each in split.personal_data] == [("e-mail address", 1)]
        assert sum(bar.rows for bar in split.lengths) == 11
        strict = {**quality, "decontaminate": True, "minTokens": 30}
        found = prepare(None, dataset=dataset(bucket, quality=strict)).prepared.dataset
        assert (found.contaminated, found.splits[0].rows + found.out_of_range) == (2, 9)
        assert found.out_of_range > 0
        assert len(rows_of(store, "train")) == found.splits[0].rows

    def test_training_rows_that_contain_a_test_row(self, prepare: Prepare, store: Store, bucket: str) -> None:
        store.put("data/test.jsonl", jsonl([{"prompt": self.LONG, "completion": " a"}]))
        held_out = {"uri": f"{bucket}/data/test.jsonl", "secretRef": {"name": "s3"}}
        rows = [*answers(4), {"prompt": f"Once more: {self.LONG} - and what then?", "completion": " b"}]
        clean = dataset(bucket, test=held_out, quality={"decontaminate": True})
        found = prepare(rows, dataset=clean).prepared.dataset
        assert found.contaminated == 1
        assert rows_of(store, "train") == answers(4)

    def test_all_rows_dropped(self, prepare: Prepare, bucket: str) -> None:
        drop = dataset(bucket, quality={"onInvalidRow": "Drop"})
        rows = [{"prompt": "a", "completion": ""}] * 3
        message = prepare([answers(1)[0], *rows][1:], dataset=drop).failure(Reason.DATA_INVALID)
        assert "no rows are left for train: of 3 rows read 3 are invalid" in message
        message = prepare(answers(), dataset=dataset(bucket, quality={"minTokens": 500})).failure(Reason.DATA_INVALID)
        assert "no rows are left for train: of 20 rows 20 have fewer tokens" in message

    def test_the_first_rows_are_shown_token_by_token(self, prepare: Prepare, store: Store) -> None:
        found = prepare([CHAT])
        shown = store.get("out/team-a/job/uid-1/data/preview.txt").decode()
        see, learn = (
            next(line for line in shown.splitlines() if line.split()[:1] == [word]) for word in ("see", "learn")
        )
        assert "hello" in see.replace("|", "")
        assert learn.replace("|", "").endswith("good day<|im_end|>".replace("|", ""))
        assert "good day" not in found.log

    def test_tools_need_a_template_that_writes_them(self, prepare: Prepare) -> None:
        tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
        message = prepare([{**CHAT, "tools": [tool]}]).failure(Reason.CONFIG_INVALID)
        assert "look_up" in message
        assert "chat template does not write them" in message
