"""``python -m finetune_gateway fetch`` (init container) and ``python -m finetune_gateway serve``.

Reports are sent when the environment names a report server, as the Kubeflow Trainer's callback expects it.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
from pathlib import Path

from finetune_api import pods
from finetune_api.reasons import EXIT_CODES, Failure
from finetune_gateway.base import fetch_base, write_failure

log = logging.getLogger("finetune_gateway")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(prog="python -m finetune_gateway", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download and verify the pool's base model")
    serve = commands.add_parser("serve", help="load adapters and pass requests on")
    for command in (fetch, serve):
        command.add_argument("--config", type=Path, default=Path(pods.POOL_FILE))
        command.add_argument("--secrets-dir", type=Path, default=Path(pods.SECRETS_DIR))
        command.add_argument("--models-dir", type=Path, default=Path(pods.MODELS_DIR))
    fetch.add_argument("--termination-log", type=Path, default=Path(pods.TERMINATION_LOG))
    serve.add_argument("--adapters-dir", type=Path, default=Path(pods.ADAPTERS_DIR), help="shared with the server")
    serve.add_argument("--server", default=f"http://127.0.0.1:{pods.SERVER_PORT}", help="URL of the model server")
    serve.add_argument("--max-lora-rank", type=int, default=64, help="the model server's maximum")
    serve.add_argument("--host", default="0.0.0.0")
    serve.add_argument("--port", type=int, default=pods.GATEWAY_PORT)
    return main


def fetch(args: argparse.Namespace) -> int:
    """Exit code of the init container."""
    try:
        fetch_base(args.config, args.models_dir, args.secrets_dir)
    except Failure as failure:
        log.error("%s: %s", failure.reason, failure.message)
        write_failure(failure, args.termination_log)
        return EXIT_CODES[failure.reason]
    return 0


def serve(args: argparse.Namespace) -> int:
    """Exit code of the gateway."""
    from finetune_gateway.app import serve  # the init container needs no web server
    from finetune_gateway.report import ReportServer
    from finetune_gateway.wiring import Settings

    url, ca_file = os.environ.get(pods.REPORT_URL_ENV), os.environ.get(pods.REPORT_CA_ENV)
    token_file = Path(os.environ.get(pods.REPORT_TOKEN_ENV, pods.TOKEN_FILE))
    settings = Settings(
        pod=os.environ.get(pods.POD_NAME_ENV) or socket.gethostname(),
        config=args.config,
        models_dir=args.models_dir,
        adapters_dir=args.adapters_dir,
        secrets_dir=args.secrets_dir,
        server_url=args.server.rstrip("/"),
        max_lora_rank=args.max_lora_rank,
        report_to=ReportServer(url, token_file, Path(ca_file) if ca_file else None) if url else None,
        host=args.host,
        port=args.port,
    )
    asyncio.run(serve(settings))
    return 0


def main() -> int:
    """Run one command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    args = parser().parse_args()
    return {"fetch": fetch, "serve": serve}[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
