"""The processes of a pod: SIGTERM reaches all, one that dies ends all, and one sentence says why. The processes are small scripts."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.pods import Summary
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import JobError
from finetune_trainer import launcher
from finetune_trainer.launcher import Crew, launch, verdict

TWO = Crew(nodes=1, processes=2, first_node="127.0.0.1", node=0)
SCRIPT = """
import os, pathlib, signal, sys, time
work, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
def end(code, error=None):
    error = f', "error": {{"code": "{error}", "message": "said by {rank}"}}' if error else ""
    (work / "ends" / rank).write_text('{"stage": "Train"' + error + "}")
    sys.exit(code)
def hang():
    (work / f"ready-{rank}").touch()
    while True: signal.pause()
"""


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    earlier = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, earlier)


def run(work: Path, script: str) -> Summary:
    return launch(TWO, [str(work)], work, (sys.executable, "-S", "-c", SCRIPT + script))


def test_each_knows_its_place_and_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    second = Crew(nodes=2, processes=4, first_node="bot-0.bot", node=1).environment(2, 29500)
    assert {name: second[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES")} == {
        "RANK": "6",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "0",
        "CUDA_VISIBLE_DEVICES": "2",
    }
    assert second["MASTER_ADDR"] == "bot-0.bot"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert TWO.environment(1, 29500)["CUDA_VISIBLE_DEVICES"] == "GPU-b"


def test_they_share_the_processors_of_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("800000 100000")
    monkeypatch.setattr("finetune_trainer.launcher.CGROUP_CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert TWO.environment(0, 29500)["OMP_NUM_THREADS"] == "4"


def test_all_end_well(tmp_path: Path) -> None:
    assert run(tmp_path, "end(0)").error is None


def test_one_that_fails_ends_the_one_that_waits_for_it(tmp_path: Path) -> None:
    script = """
signal.signal(signal.SIGTERM, lambda *_: end(143, "Interrupted"))
hang() if rank == "0" else end(19, "OutOfMemory")
"""
    found = run(tmp_path, script)
    assert found.error == JobError(code="OutOfMemory", message="said by 1")


def test_one_that_is_killed_ends_the_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "LAST_SECONDS", 0.1)
    script = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
hang() if rank == "0" else os.kill(os.getpid(), signal.SIGKILL)
"""
    with pytest.raises(Failure, match="training process 1 was ended by SIGKILL") as caught:
        run(tmp_path, script)
    assert caught.value.reason is Reason.INTERRUPTED


def test_sigterm_reaches_all(tmp_path: Path) -> None:
    def send() -> None:
        while len(list(tmp_path.glob("ready-*"))) < 2:
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    found = run(tmp_path, 'signal.signal(signal.SIGTERM, lambda *_: end(143, "Interrupted")); hang()')
    assert found.error is not None
    assert found.error.code == Reason.INTERRUPTED


def an_end(reason: Reason) -> Summary:
    return Summary(stage="Train", error=JobError(code=reason, message=reason))


@pytest.mark.parametrize(
    ("codes", "said", "reason"),
    [
        pytest.param({1: 1, 0: 20}, {1: Reason.INTERNAL_ERROR, 0: Reason.NON_FINITE_LOSS}, "NonFiniteLoss", id="clear"),
        pytest.param({1: 143, 0: 1}, {1: Reason.INTERRUPTED, 0: Reason.INTERNAL_ERROR}, "InternalError", id="a bug"),
        pytest.param({1: 143, 0: 143}, {1: Reason.INTERRUPTED, 0: Reason.INTERRUPTED}, "Interrupted", id="stopped"),
    ],
)
def test_the_cause_is_told_and_not_what_came_of_it(codes: dict[int, int], said: dict[int, Reason], reason: str) -> None:
    found = verdict(codes, {rank: an_end(each) for rank, each in said.items()}, 0)
    assert found.error is not None
    assert found.error.code == reason


def test_who_loses_a_killed_one_does_not_tell_its_own_error() -> None:
    with pytest.raises(Failure, match="training process 1 was ended by SIGSEGV"):
        verdict({0: 1, 1: -11}, {0: an_end(Reason.INTERNAL_ERROR), 1: None}, 0)


def test_the_first_ones_success_counts() -> None:
    assert verdict({1: 143, 0: 0}, {0: Summary(stage="Train"), 1: None}, 0).error is None


def test_an_end_without_a_word_is_a_bug() -> None:
    with pytest.raises(Failure, match="training process 1 ended without a word") as caught:
        verdict({1: 1, 0: 1}, {0: None, 1: None}, 0)
    assert caught.value.reason is Reason.INTERNAL_ERROR
