"""The demo's decisions: what Helm is asked to do, what went with an earlier object store, which rows are held out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.__main__ import lost, read_images
from demo.docstrings import Docstring, area_rows, pretraining_rows
from demo.kubectl import CommandFailed, Object
from demo.release import OURS, UPGRADE, refuse_foreign, steps
from demo.show import when_done
from localcluster.layout import BIN, KUBECONFIG

ROOT = Path(__file__).parents[2]

NOW = "state 0123456789abcdef"
EARLIER = "state fedcba9876543210"
REMOVE = ("uninstall", "--wait")


def revisions(*said: tuple[str, str]) -> list[Object]:
    """A release's history as Helm tells it: status and description of each revision."""
    return [{"revision": i, "status": status, "description": text} for i, (status, text) in enumerate(said, 1)]


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        pytest.param([], [UPGRADE], id="nothing is installed"),
        pytest.param([("deployed", NOW)], [], id="nothing changed"),
        pytest.param([("deployed", EARLIER)], [UPGRADE], id="chart or values changed"),
        pytest.param([("pending-install", "Initial install underway")], [REMOVE, UPGRADE], id="killed in the first install"),
        pytest.param([("failed", "Release failed: timed out")], [UPGRADE], id="the first install failed"),
        pytest.param(
            [("failed", "Release failed"), ("pending-upgrade", "Preparing upgrade")], [REMOVE, UPGRADE], id="killed in the second try"
        ),
        pytest.param(
            [("superseded", EARLIER), ("deployed", EARLIER), ("pending-upgrade", "Preparing upgrade")],
            [("rollback", "2"), UPGRADE],
            id="killed in an upgrade",
        ),
        pytest.param(
            [("deployed", EARLIER), ("pending-upgrade", "Preparing upgrade"), ("pending-rollback", "Rollback to 1")],
            [("rollback", "1"), UPGRADE],
            id="killed in going back",
        ),
        pytest.param(
            [("superseded", EARLIER), ("pending-upgrade", "Preparing upgrade"), ("deployed", "Rollback to 1")],
            [UPGRADE],
            id="killed after going back",
        ),
        pytest.param([("uninstalling", "Deletion in progress")], [REMOVE, UPGRADE], id="killed in removing"),
        pytest.param([("uninstalled", "Uninstallation complete")], [UPGRADE], id="removed, its history kept"),
    ],
)  # fmt: skip
def test_a_release_of_the_demo_is_brought_to_what_it_should_be(
    found: list[tuple[str, str]], asked: list[tuple[str, ...]]
) -> None:
    assert steps(revisions(*found), NOW, made_system=True) == asked


@pytest.mark.parametrize(
    ("found", "made_system"),
    [
        pytest.param([("deployed", "Install complete")], False, id="installed by hand"),
        pytest.param([("deployed", "Install complete")], True, id="installed by hand where the demo once was"),
        pytest.param([("superseded", NOW), ("deployed", "Upgrade complete")], True, id="the demo's, then taken over"),
        pytest.param([("deployed", "Upgrade complete"), ("pending-upgrade", "Preparing upgrade")], True, id="while it changes"),
        pytest.param([("superseded", "Install complete"), ("deployed", "Rollback to 1")], True, id="gone back"),
        pytest.param([("pending-install", "Initial install underway")], False, id="while it is installed"),
        pytest.param([("uninstalling", "Deletion in progress")], False, id="while it is removed"),
    ],
)  # fmt: skip
def test_a_release_of_somebody_else_is_left_alone(found: list[tuple[str, str]], made_system: bool) -> None:
    with pytest.raises(
        CommandFailed, match=r"finetune-system has a Helm release .* did not make .* nothing was changed"
    ):
        steps(revisions(*found), NOW, made_system)


def made(name: str, at: str, labels: dict[str, str] | None = OURS, **metadata: object) -> Object:
    return {"metadata": {"name": name, "creationTimestamp": f"2026-01-01T{at}Z", "labels": labels, **metadata}}


def test_a_namespace_of_somebody_else_is_left_alone() -> None:
    refuse_foreign(None)
    refuse_foreign(made("finetune-demo", "09:00:00"))
    with pytest.raises(CommandFailed, match=r"finetune-demo app\.kubernetes\.io/part-of=finetune-demo"):
        refuse_foreign(made("finetune-demo", "09:00:00", {"kubernetes.io/metadata.name": "finetune-demo"}))


def test_what_the_demo_made_before_the_newest_store_is_lost() -> None:
    stores = [made("terminating", "10:00:00"), made("new", "12:00:00")]
    jobs = [
        made("stdlib-base", "11:59:59"),
        made("demo-data-0123abcd", "11:59:59"),
        made("stdlib-areas", "12:00:01"),
        made("stdlib-base-1", "09:00:00", ownerReferences=[{}]),
    ]
    assert lost(jobs, stores) == ["stdlib-base", "demo-data-0123abcd"]
    assert lost(jobs, []) == []


def test_what_somebody_else_made_in_the_namespace_is_not_lost() -> None:
    jobs = [
        made("support-bot", "09:00:00"),
        made("stdlib-base", "09:00:00", labels=None),
        made("demo-data-1", "09:00:00", {}),
    ]
    assert lost(jobs, [made("new", "12:00:00")]) == []


@pytest.mark.parametrize("kubeconfig", [None, "/home/ada/.kube/config"])
def test_only_the_local_cluster_is_taken_down_as_a_whole(kubeconfig: str | None) -> None:
    assert when_done(str(KUBECONFIG)).startswith("make demo-down ")
    assert when_done(kubeconfig).startswith("kubectl delete namespace finetune-demo ")
    assert when_done(kubeconfig).endswith("\nhelm uninstall finetune-operator -n finetune-system")


PINNED_IMAGES = dict.fromkeys(("operator", "trainer", "seaweedfs"), "registry.example.com/x@sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(None, r"Set IMAGES to the path of a JSON file", id="nothing said"),
        pytest.param("", r"cannot be read", id="no JSON"),
        pytest.param("[]", r"operator in .* must be pinned", id="another JSON"),
        pytest.param(json.dumps(PINNED_IMAGES | {"trainer": "x:1"}), r'trainer .* and is "x:1"', id="a tag"),
    ],
)
def test_images_that_cannot_be_installed_are_said(text: str | None, says: str, tmp_path: Path) -> None:
    (tmp_path / "images.json").write_text(text or "")
    with pytest.raises(CommandFailed, match=says):
        read_images("" if text is None else str(tmp_path / "images.json"))


def test_images_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "images.json").write_text(json.dumps(PINNED_IMAGES | {"more": "x"}))
    assert read_images(str(tmp_path / "images.json")) == PINNED_IMAGES


def test_a_shell_takes_over_a_path_of_any_characters() -> None:
    path = f"{os.environ['PATH']}:/mnt/c/Program Files (x86)/it's $HERE"
    said = 'eval "$("$0" -m localcluster env)" && printf %s "$PATH"'
    shell = subprocess.run(
        ["/bin/sh", "-c", said, sys.executable],
        env={"PATH": path},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert shell.stdout == f"{BIN}:{path}"


def test_held_out_rows_are_not_pretrained_on() -> None:
    found = [Docstring(f"asyncio.f{i}", f"Number {i} of the texts that say what a function of asyncio does for you.{'.' * 30}")
             for i in range(40)]  # fmt: skip
    split = area_rows(found, seed=1)
    assert {name: len(part) for name, part in split.items()} == {"test": 4, "validation": 4, "train": 32}
    held_out = split["test"] + split["validation"]
    texts = " ".join(row["text"] for row in pretraining_rows(found, held_out))
    assert len(pretraining_rows(found, held_out)) == 32
    assert not any(docstring.text in texts for docstring in held_out)
