"""A server pod without Kubernetes: the real fetch, model server and gateway as processes beside a stand-in for the operator.

Used by contract/gateway and benchmarks/serving.py. Base and adapters are made here and lie in a real S3 server.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from openai import OpenAI

from finetune_api.artifacts import Manifest
from finetune_api.pods import DesiredAdapter, DesiredPool, LoadedAdapter, PoolReport
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.references import ModelRef, SecretRef
from finetune_storage import commit_folder, open_store
from ports import free_port
from tiny_models import write_tiny_llama

ROOT = Path(__file__).resolve().parent.parent
MAX_LORA_RANK = 16
SECRET = SecretRef(name="s3")
START_SECONDS = 180
"""Importing torch, transformers and PEFT takes most of it on a busy machine."""
PROMPT, TOKENS = "green thing 7\nColour:", 8


def write_adapter(folder: Path, base: Path, *, seed: int, rank: int = 4, **config: Any) -> Path:
    """A LoRA adapter with random weights, large enough to change what a tiny base says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    targets = config.pop("target_modules", ["q_proj", "v_proj", "o_proj"])
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    if config:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def expected_text(base: Path, adapter: Path | None, prompt: str, tokens: int) -> str:
    """What transformers and PEFT answer themselves, greedily."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    given = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        made = model.generate(**given, max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True))


@dataclass
class Made:
    """Adapters on disk, and what each of them (and the base) says to PROMPT according to transformers and PEFT."""

    base: Path
    adapters: dict[str, Path]
    texts: dict[str, str]


def make_adapters(folder: Path, seed: int = 0) -> Made:
    """Three of them on a tiny base of this seed."""
    base = write_tiny_llama(folder / "base", seed=seed)
    adapters = {
        name: write_adapter(folder / name, base, seed=seed) for seed, name in enumerate(("red", "blue", "gold"), 1)
    }
    texts = {name: expected_text(base, adapter, PROMPT, TOKENS) for name, adapter in adapters.items()}
    texts["base"] = expected_text(base, None, PROMPT, TOKENS)
    assert len(set(texts.values())) == 4, f"all must differ, or the tests could not fail: {texts}"
    return Made(base, adapters, texts)


def said_by(client: OpenAI, model: str) -> str:
    """The answer to PROMPT, after checking whose it is."""
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0)
    assert answer.model == model
    return answer.choices[0].text


@dataclass
class Operator:
    """Takes reports and replies with what is wanted; can be stopped and started on its port."""

    desired: DesiredPool
    reports: list[PoolReport] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        operator = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                operator.reports.append(PoolReport.model_validate_json(body))
                reply = json.dumps(operator.desired.wire()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def said(self, deployment: str) -> LoadedAdapter | None:
        """The newest word about a deployment."""
        last = self.reports[-1].adapters if self.reports else []
        return next((each for each in last if each.deployment == deployment), None)


@dataclass
class ServedPool:
    """The running pod."""

    folder: Path
    base: Path
    base_uri: str
    base_digest: str
    secret: Path
    operator: Operator
    server_port: int = field(default_factory=free_port)
    gateway_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def server_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def publish(
        self, name: str, adapter: Path, base_uri: str | None = None, base_digest: str | None = None
    ) -> DesiredAdapter:
        """Commit an adapter to storage; the wish to serve it under its name."""
        uri = f"{self.base_uri}/adapters/{adapter.name}"
        base = ResolvedBaseModel(uri=base_uri or self.base_uri, digest=base_digest or self.base_digest)
        manifest = Manifest(kind="Adapter", files=[], base_model=base)
        digest = commit_folder(open_store(uri, self.secret), adapter, "", manifest)
        return DesiredAdapter(deployment=name, model=name, uri=uri, digest=digest, secret_ref=SECRET)

    def wish(self, *adapters: DesiredAdapter) -> None:
        """Replace adapters of the same deployment, keep the others."""
        kept = {each.deployment: each for each in self.operator.desired.adapters} | {a.deployment: a for a in adapters}
        self.operator.desired = self.operator.desired.model_copy(update={"adapters": list(kept.values())})

    def drop(self, deployment: str) -> None:
        kept = [each for each in self.operator.desired.adapters if each.deployment != deployment]
        self.operator.desired = self.operator.desired.model_copy(update={"adapters": kept})

    def start(self, name: str, *args: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(ROOT / "operator"), str(ROOT / "trainer_image")])
        report = {"KUBEFLOW_TRAINER_SERVER_URL": f"http://127.0.0.1:{self.operator.port}/report"}
        token = {
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(self.folder / "token"),
            "POD_NAME": "pod-1",
            "OMP_NUM_THREADS": "1",
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *args],
                env={**os.environ, "PYTHONPATH": path, **report, **token},
                stdout=log,
                stderr=log,
            )
        return self.processes[name]

    def start_server(self) -> None:
        self.start(
            "server", "finetune_server", "--model", f"{self.folder}/models/base", "--adapter-root", f"{self.folder}/adapters",
            "--port", str(self.server_port), "--max-lora-rank", str(MAX_LORA_RANK), "--threads", "1",
        )  # fmt: skip

    def start_gateway(self) -> None:
        self.start(
            "gateway", "finetune_gateway", "serve", *self.places(), "--adapters-dir", f"{self.folder}/adapters",
            "--server", self.server_url, "--max-lora-rank", str(MAX_LORA_RANK),
            "--host", "127.0.0.1", "--port", str(self.gateway_port),
        )  # fmt: skip

    def places(self) -> list[str]:
        return [
            "--config", f"{self.folder}/pool.json", "--secrets-dir", str(self.secret.parent), "--models-dir", f"{self.folder}/models",
        ]  # fmt: skip

    def fetch(self) -> int:
        """The init container's exit code."""
        (self.folder / "pool.json").write_text(json.dumps(self.operator.desired.wire()))
        log = ["--termination-log", f"{self.folder}/termination.log"]
        return self.start("fetch", "finetune_gateway", "fetch", *self.places(), *log).wait(120)

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def until(self, what: str, seen: Callable[[], Any], seconds: float = 60) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not seen():
            if time.monotonic() > deadline:
                logs = "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))
                raise AssertionError(f"not within {seconds} s: {what}; {self.operator.reports[-1:]}\n{logs}")
            time.sleep(0.05)

    def until_loaded(self, *adapters: DesiredAdapter) -> None:
        def loaded(wish: DesiredAdapter) -> bool:
            said = self.operator.said(wish.deployment)
            return said is not None and (said.state, said.digest) == ("Loaded", wish.digest)

        self.until(f"loaded {[each.deployment for each in adapters]}", lambda: all(map(loaded, adapters)))

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False


@contextmanager
def served_pool(folder: Path, bucket: str, secret: Path, base: Path) -> Iterator[ServedPool]:
    """Fetched, started, ready; killed at the end."""
    for name in ("models", "adapters"):
        (folder / name).mkdir()
    (folder / "token").write_text("a-token")
    base_uri = f"{bucket}/base"
    digest = commit_folder(open_store(base_uri, secret), base, "", Manifest(kind="Model", files=[]))
    model = ModelRef(uri=base_uri, digest=digest, secret_ref=SECRET)
    operator = Operator(DesiredPool(namespace="team", pool="pool-1", base_model=model, adapters=[]))
    pool = ServedPool(folder, base, base_uri, digest, secret, operator)
    try:
        operator.start()
        assert pool.fetch() == 0, (folder / "fetch.log").read_text()
        pool.start_server()
        pool.start_gateway()
        pool.until("ready", pool.is_ready, START_SECONDS)
        yield pool
    finally:
        for process in pool.processes.values():
            process.kill()
            process.wait()
        operator.stop()
