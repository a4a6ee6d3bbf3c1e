"""The demo's decisions: what went with an earlier object store, which rows are held out."""

from demo.__main__ import older
from demo.docstrings import Docstring, area_rows, pretraining_rows
from demo.kubectl import Object


def made(name: str, at: str, **metadata: object) -> Object:
    return {"metadata": {"name": name, "creationTimestamp": f"2026-01-01T{at}Z", **metadata}}


def test_what_is_older_than_the_newest_store_is_lost() -> None:
    stores = [made("terminating", "10:00:00"), made("new", "12:00:00")]
    jobs = [made("before", "11:59:59"), made("after", "12:00:01"), made("child", "09:00:00", ownerReferences=[{}])]
    assert older(jobs, stores) == ["before"]


def test_held_out_rows_are_not_pretrained_on() -> None:
    found = [Docstring(f"asyncio.f{i}", f"Number {i} of the texts that say what a function of asyncio does for you.{'.' * 30}")
             for i in range(40)]  # fmt: skip
    split = area_rows(found, seed=1)
    assert {name: len(part) for name, part in split.items()} == {"test": 4, "validation": 4, "train": 32}
    held_out = split["test"] + split["validation"]
    texts = " ".join(row["text"] for row in pretraining_rows(found, held_out))
    assert len(pretraining_rows(found, held_out)) == 32
    assert not any(docstring.text in texts for docstring in held_out)
