"""Start the model server: ``python -m finetune_server --model /models/base --adapter-root /adapters``.

Flags only, no environment. Exits 1 with a sentence where the model cannot be served, 0 after SIGTERM or SIGINT.
"""

import argparse
import asyncio
import logging
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from finetune_server.api import Api
from finetune_server.engine import Engine
from finetune_server.folder import check_folder
from finetune_server.prompts import Prompts
from finetune_server.protocol import ModelRefused
from finetune_server.registry import AdapterLimits, Registry, Served

if TYPE_CHECKING:
    from finetune_server.model import LoadedModel

log = logging.getLogger("finetune_server")


def parser() -> argparse.ArgumentParser:
    """The flags; where vLLM has one, its name and meaning."""
    flags = argparse.ArgumentParser(prog="finetune_server", description=__doc__.splitlines()[0] if __doc__ else None)
    add = flags.add_argument
    add("--model", type=Path, required=True, help="folder of the base model (safetensors)")
    add("--adapter-root", type=Path, required=True, help="adapters are loaded from folders below it")
    add("--host", default="127.0.0.1")
    add("--port", type=positive, default=8000)
    add("--served-model-name", default="base", help="name of the base model in requests")
    add("--max-lora-rank", type=positive, default=64)
    add("--max-adapters", type=positive, default=256, help="adapters loaded at once")
    add("--max-model-len", type=positive, help="context length; default: the model's own")
    add("--max-num-seqs", type=positive, default=16, help="sequences decoded at once, all models together")
    add("--max-queue", type=positive, default=256, help="sequences under way per model; more are answered 429")
    add("--threads", type=positive, help="compute threads; default: OMP_NUM_THREADS or the cores")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    add("--grace-seconds", type=positive, default=30, help="time for requests under way after SIGTERM")
    return flags


def positive(text: str) -> int:
    """A flag's value above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


async def serve(flags: argparse.Namespace) -> None:
    """Listen at once, answer when the model does, drain on a signal."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(partial(load, flags), max_num_seqs=flags.max_num_seqs, max_queue=flags.max_queue)
    api = Api(engine)
    runner = api.runner()
    await runner.setup()
    try:
        await web.TCPSite(runner, flags.host, flags.port).start()
        opening, stopping = loop.create_task(open_api(api, engine, flags)), loop.create_task(stop.wait())
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            await opening
            await stopping
        log.info("shutting down, at most %d s", flags.grace_seconds)
        await engine.drain(flags.grace_seconds)
    finally:
        await runner.cleanup()


def load(flags: argparse.Namespace) -> "LoadedModel":
    """Runs on the model thread, which imports torch and transformers here."""
    from finetune_server.model import load_model

    return load_model(flags.model, dtype=flags.dtype, max_model_len=flags.max_model_len, threads=flags.threads)


async def open_api(api: Api, engine: Engine, flags: argparse.Namespace) -> None:
    """Wait for the model and let requests in."""
    model = await engine.start()
    base = Served(flags.served_model_name, None, str(flags.model))
    limits = AdapterLimits(flags.adapter_root, flags.max_lora_rank, flags.max_adapters)
    prompts = Prompts(model.decoder.tokenizer, model.vocabulary, model.max_model_len)
    api.open(Registry(base, model, engine, limits), prompts, model.decoder)


def main() -> int:
    """The exit code."""
    flags = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    try:
        check_folder(flags.model)
        asyncio.run(serve(flags))
    except ModelRefused as refused:
        log.error("%s", refused)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
