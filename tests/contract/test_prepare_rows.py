"""Rows that the prepare stage refuses: broken ones by file, line and field, and others that do not fit method, template or gate."""

from finetune_api.data_report import DataReport, InvalidRow
from finetune_api.pods import MAX_SUMMARY_BYTES
from finetune_api.reasons import Reason
from finetune_storage import Store
from json_lines import jsonl
from prepare_stage import CHAT, Prepare, answers, dataset, rows_of, texts
from tiny_models import CHAT_TEMPLATE


class TestBrokenRows:
    def test_file_line_and_field_are_named_and_no_row_is_quoted(self, prepare: Prepare, store: Store) -> None:
        broken = {
            '{"prompt": "a", "completion"': "found no valid JSON",
            '{"prompt": "SECRET"}': "field completion: found nothing, expected a non-empty string",
            '{"prompt": "a", "completion": 4}': "field completion: found a number, expected a non-empty string",
            '{"prompt": "SECRET", "completion": " "}': "field completion: found an empty string",
            "[1, 2]": "found a list, expected one JSON object per line",
        }
        found = prepare([*answers(2), *broken])
        message = found.failure(Reason.DATA_INVALID)
        assert "5 of 7 rows are invalid" in message
        for number, words in enumerate(broken.values(), start=3):
            finding = message.split(f"data/train.jsonl line {number}", 1)[1].split(";")[0]
            assert words in finding
        assert "SECRET" not in found.log
        [listed] = store.list("out/")
        assert b"SECRET" not in store.get(listed)

    def test_roles_out_of_order(self, prepare: Prepare) -> None:
        broken = {
            ("user", "user", "assistant"): "messages[1].role: found user, expected assistant",
            ("user", "system", "assistant"): "messages[1].role: found system, expected assistant",
            ("assistant",): "messages[0].role: found assistant, expected system or user",
            ("system", "user"): "messages[1].role: found user, expected assistant: the last message is the answer",
            ("user", "narrator"): "messages[1].role: found a string of 8 characters",
        }
        rows = [{"messages": [{"role": role, "content": "x"} for role in roles]} for roles in broken]
        message = prepare([CHAT, *rows]).failure(Reason.DATA_INVALID)
        assert [words for words in broken.values() if words not in message] == []

    def test_answers_outside_the_labels(self, prepare: Prepare, bucket: str) -> None:
        rows = [{"prompt": f"{i}?", "completion": " red" if i % 2 else " blue"} for i in range(8)]
        labels = {"labels": ["red", "blue"]}
        split = dataset(bucket, split={"test": 0.25})
        assert prepare(rows, dataset=split, evaluation=labels).prepared
        message = prepare([*rows, {"prompt": "9?", "completion": "green"}], dataset=split, evaluation=labels).failure(
            Reason.DATA_INVALID
        )
        assert (
            "line 9, field completion: found a string of 5 characters, expected one of the 2 evaluation.labels"
            in message
        )

    def test_invalid_rows_can_be_dropped(self, prepare: Prepare, bucket: str) -> None:
        found = prepare([*answers(3), "{"], dataset=dataset(bucket, quality={"onInvalidRow": "Drop"}))
        assert found.prepared.dataset.invalid == 1
        assert found.prepared.dataset.splits[0].rows == 3

    def test_the_message_has_the_first_findings_and_the_output_all(self, prepare: Prepare, store: Store) -> None:
        found = prepare([*answers(1), *["{"] * 300, *[{"prompt": "a", "completion": ""}] * 200])
        message, listed = found.failure(Reason.DATA_INVALID), "out/team-a/job/uid-1/invalid-rows.jsonl"
        assert "500 of 501 rows are invalid" in message
        assert f"and 490 more, all in {store.uri(listed)}" in message
        assert len(found.message) <= MAX_SUMMARY_BYTES
        rows = [InvalidRow.model_validate_json(line) for line in store.get(listed).splitlines()]
        assert [row.place for row in rows] == [f"line {place}" for place in range(2, 502)]
        assert (rows[-1].field, rows[-1].found) == ("completion", "an empty string")

    def test_the_report_is_a_page_before_anything_is_trained(self, prepare: Prepare, store: Store, bucket: str) -> None:
        rows = [*answers(3), *[{"prompt": "a", "completion": ""}] * 2]
        assert prepare(rows, dataset=dataset(bucket, quality={"onInvalidRow": "Drop"})).prepared
        report = DataReport.model_validate_json(store.get("out/team-a/job/uid-1/data/report.json"))
        assert [(kind.name, kind.rows) for kind in report.invalid_kinds] == [("completion: an empty string", 2)]
        assert report.near_duplicates is None, "nobody looked for them"
        page = store.get("out/team-a/job/uid-1/data-report.html").decode()
        assert "<h1>team-a/job: data</h1>" in page
        for shown in ("completion: an empty string", "Tokens of an answer (train)", "5 rows read"):
            assert shown in page

    def test_an_empty_file(self, prepare: Prepare) -> None:
        assert "no rows" in prepare(b"\n").failure(Reason.DATA_INVALID)

    def test_fields_of_no_format(self, prepare: Prepare) -> None:
        message = prepare([{"question": "a", "answer": "b"}]).failure(Reason.DATA_INVALID)
        assert "answer, question" in message
        assert "dataset.columns" in message


class TestMethodAndFormat:
    def test_raw_text_does_not_fit_sft(self, prepare: Prepare) -> None:
        assert "use method cpt" in prepare(texts()).failure(Reason.DATA_INVALID)

    def test_answers_do_not_fit_cpt(self, prepare: Prepare) -> None:
        message = prepare(answers(), method={"cpt": {}}).failure(Reason.DATA_INVALID)
        assert "use method sft, grpo or ppo" in message
        assert "PromptCompletion" in message
        assert "use method sft" in message

    def test_messages_need_a_chat_template(self, prepare: Prepare, store: Store) -> None:
        store.delete(["base/chat_template.jinja"])
        assert "chat template" in prepare([CHAT]).failure(Reason.CONFIG_INVALID)

    def test_a_chat_template_must_mark_the_answers(self, prepare: Prepare, store: Store) -> None:
        plain = CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        store.put("base/chat_template.jinja", plain.encode())
        assert "assistantOnlyLoss" in prepare([CHAT]).failure(Reason.CONFIG_INVALID)
        assert prepare([CHAT], method={"sft": {"assistantOnlyLoss": False}}).prepared

    def test_rows_that_the_chat_template_refuses(self, prepare: Prepare, store: Store, bucket: str) -> None:
        refusing = "{{ raise_exception('no system role') if messages[0]['role'] == 'system' }}"
        store.put("base/chat_template.jinja", (refusing + CHAT_TEMPLATE).encode())
        system = {"messages": [{"role": "system", "content": "Be brief."}, *CHAT["messages"]]}
        message = prepare([CHAT, system]).failure(Reason.DATA_INVALID)
        assert "1 of 2 rows is invalid: data/train.jsonl row 2: found messages" in message
        assert "chat template refuses (no system role)" in message
        drop = dataset(bucket, quality={"onInvalidRow": "Drop"})
        found = prepare(None, dataset=drop).prepared.dataset
        assert (found.invalid, found.splits[0].rows, rows_of(store, "train")) == (1, 1, [CHAT])
        (listed,) = store.get("out/team-a/job/uid-1/invalid-rows.jsonl").splitlines()
        assert InvalidRow.model_validate_json(listed).place == "row 2"
        message = prepare([system], dataset=drop).failure(Reason.DATA_INVALID)
        assert "and 1 are refused by the base model's chat template" in message
        suite = {"name": "exam", "uri": f"{bucket}/data/train.jsonl", "secretRef": {"name": "s3"}}
        store.put("data/own.jsonl", jsonl(answers()))
        own = dataset(bucket, train={"uri": f"{bucket}/data/own.jsonl", "secretRef": {"name": "s3"}})
        message = prepare(None, dataset=own, evaluation={"suites": [suite]}).failure(Reason.DATA_INVALID)
        assert "evaluation.suites, exam: row 1: the base model's chat template refuses" in message

    def test_a_gate_needs_held_out_rows(self, prepare: Prepare) -> None:
        message = prepare(answers(), evaluation={"gate": [{"metric": "Loss", "max": 1}]}).failure(Reason.CONFIG_INVALID)
        assert "dataset.split.test" in message
