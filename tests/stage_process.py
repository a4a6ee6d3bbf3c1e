"""A stage's program as a pod runs it: job.json, secrets and work folder by argument, last words in a file."""

import os
import subprocess
import sys
from pathlib import Path

from finetune_api.pods import JobConfig
from finetune_storage import document


def start_stage(
    program: str, stage: str, config: JobConfig, secrets_dir: Path, work: Path, *more: str
) -> subprocess.Popen[str]:
    """The process; its output can be read line by line, its termination message lies in ``work / "end"``."""
    work.mkdir(parents=True)
    (work / "job.json").write_bytes(document(config))
    places = {
        "config": work / "job.json",
        "secrets-dir": secrets_dir,
        "work-dir": work,
        "termination-log": work / "end",
    }
    options = [f"--{name}={path}" for name, path in places.items()]
    return subprocess.Popen(
        [sys.executable, "-m", program, stage, "--attempt=1", *options, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
