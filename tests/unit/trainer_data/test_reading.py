"""Every kind of file gives the same rows, each with the place a person finds it by; damaged files are named."""

import bz2
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from finetune_api.reasons import Failure, Reason
from finetune_trainer.data.arrays import LONGEST_ROW
from finetune_trainer.data.findings import Broken, Findings
from finetune_trainer.data.reading import kind_of, read_rows

ROWS = [{"prompt": 'a, "quoted"\nline', "completion": "b"}, {"prompt": "ü", "completion": "日本"}]


def read(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], Findings]:
    findings = Findings()
    return list(read_rows(path, path.name, findings)), findings


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), out, row_group_size=1)
    return out.getvalue()


def as_arrow(rows: list[dict[str, Any]], open_writer: Any) -> bytes:
    out, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with open_writer(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return bytes(out.getvalue())


WRITERS: dict[str, Any] = {
    "rows.jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    "rows.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "lines.json": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    "rows.csv": as_csv,
    "rows.parquet": as_parquet,
    "rows.arrow": lambda rows: as_arrow(rows, pa.ipc.new_file),
    "stream.arrow": lambda rows: as_arrow(rows, pa.ipc.new_stream),
}
COMPRESSED: dict[str, Any] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd}


@pytest.mark.parametrize("codec", COMPRESSED)
@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / (name + codec)
    path.write_bytes(COMPRESSED[codec](WRITERS[name](ROWS)))
    rows, findings = read(path)
    assert [row for _, row in rows] == ROWS
    assert findings.rows == 2
    assert [place for place, _ in rows] == {
        "rows.jsonl": ["line 1", "line 2"],
        "lines.json": ["line 1", "line 2"],
        "rows.csv": ["line 2", "line 4"],
    }.get(name, ["row 1", "row 2"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.b.JSONL.GZ", (".jsonl", ".gz")),
        ("rows", (".jsonl", "")),
        ("v1.2", (".jsonl", "")),
        ("rows.parquet", (".parquet", "")),
        ("rows.zst", (".jsonl", ".zst")),
    ],
)
def test_a_name_says_how_a_file_holds_rows(name: str, kind: tuple[str, str]) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    "name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.jsonl.bz2", "rows.parquet", "rows.arrow", "rows.json"]
)
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) - 9], lambda data: b"[no such file" + data[8:]])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: Any) -> None:
    whole = WRITERS[name.removesuffix(codec)](ROWS * 50) if (codec := kind_of(name)[1]) else WRITERS[name](ROWS * 50)
    path = tmp_path / name
    path.write_bytes(damage(COMPRESSED[codec](whole)))
    with pytest.raises(Failure) as end:
        read(path)
    assert end.value.reason is Reason.DATA_INVALID
    assert f"{name} cannot be read as" in end.value.message


class TestLines:
    def read(self, folder: Path, data: bytes, name: str = "f") -> tuple[list[tuple[str, dict[str, Any]]], Findings]:
        (folder / name).write_bytes(data)
        return read(folder / name)

    @pytest.mark.parametrize("name", ["f", "f.json"])
    def test_they_are_counted_as_an_editor_does(self, tmp_path: Path, name: str) -> None:
        rows, findings = self.read(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": 2}\n{\n{"a": 3}', name)
        assert rows == [("line 1", {"a": 1}), ("line 3", {"a": 2}), ("line 5", {"a": 3})]
        assert [(each.place, each.expected) for each in findings.first] == [("line 4", "one JSON object per line")]
        assert findings.rows == 4

    @pytest.mark.parametrize(
        "data",
        [b"\xff\xfe{", b"[" * 100_000, b"1", b"null", b'"text"', b'[{"a": 1}]', b'{"a": ' + b"1" * 5_000 + b"}"],
        ids=["no-utf-8", "too-deep", "number", "nothing", "text", "list", "too-many-digits"],
    )
    def test_what_is_no_row_is_a_finding(self, tmp_path: Path, data: bytes) -> None:
        rows, findings = self.read(tmp_path, data + b'\n{"a": 1}')
        assert rows == [("line 2", {"a": 1})]
        assert findings.count == 1

    def test_one_without_end_does_not_fill_the_memory(self, tmp_path: Path) -> None:
        rows, findings = self.read(tmp_path, b'{"a": "' + b"x" * (2 * LONGEST_ROW) + b'"}\n{"a": 1}\n')
        assert rows == [("line 2", {"a": 1})]
        assert "32 MiB" in findings.first[0].found

    def test_of_a_json_file_longer_than_its_first_piece(self, tmp_path: Path) -> None:
        lines = [{"a": "x" * 1000, "i": i} for i in range(200)]
        rows, _ = self.read(tmp_path, "".join(json.dumps(row) + "\n" for row in lines).encode(), "f.json")
        assert [row for _, row in rows] == lines
        assert rows[-1][0] == "line 200"


class TestArrays:
    def test_rows_across_pieces(self, tmp_path: Path) -> None:
        rows = [{"a": "ü" * (i % 3000), "i": i} for i in range(3000)]
        (tmp_path / "f.json").write_text(json.dumps(rows, ensure_ascii=False))
        assert [row for _, row in read(tmp_path / "f.json")[0]] == rows

    def test_an_element_that_is_no_object_is_a_finding(self, tmp_path: Path) -> None:
        (tmp_path / "f.json").write_text('[{"a": 1}, 12, {"a": 2}]')
        rows, findings = read(tmp_path / "f.json")
        assert [place for place, _ in rows] == ["row 1", "row 3"]
        assert findings.first[0].place == "row 2"


class TestTables:
    def test_members_a_row_has_not_are_left_out(self, tmp_path: Path) -> None:
        rows = [{"m": [{"role": "a", "tool": "t"}, {"role": "b"}], "n": None}, {"m": [], "n": 1}]
        (tmp_path / "f.parquet").write_bytes(as_parquet(rows))
        assert [row for _, row in read(tmp_path / "f.parquet")[0]] == rows

    def test_a_csv_row_that_does_not_fit_is_a_finding(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_bytes(b"a,b\n1,2,3\n4\n\xff,5\n6,7\n")
        rows, findings = read(tmp_path / "f.csv")
        assert rows == [("line 3", {"a": "4"}), ("line 5", {"a": "6", "b": "7"})]
        assert [(each.place, each.field) for each in findings.first] == [("line 2", ""), ("line 4", "a")]


def test_findings_are_counted_by_kind_without_their_numbers() -> None:
    findings = Findings()
    for place in range(3):
        findings.add(
            "rows.jsonl", f"line {place}", Broken(f"messages[{place}].content", f"a list of {place}", "a text")
        )
    findings.add("rows.jsonl", "line 9", Broken("", "no valid JSON", "an object"))
    assert findings.kinds == {"messages[].content: a list of …": 3, "no valid JSON": 1}
