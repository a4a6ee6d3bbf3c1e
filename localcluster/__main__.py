"""The command line: `python3 -m localcluster up | down | status | images | kubeconfig | env`."""

import argparse
import json
import shlex
import sys

from localcluster import build, images, node
from localcluster.layout import KUBECONFIG
from localcluster.shell import Failure, say


def main() -> int:
    parser = argparse.ArgumentParser(prog="localcluster", description="A real Kubernetes on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring it up, or back into shape")
    commands.add_parser("down", help="take it away; images and binaries stay cached")
    commands.add_parser("status", help="show what runs")
    commands.add_parser("images", help="build and push the product's images; print their pinned references")
    commands.add_parser("kubeconfig", help="print the kubeconfig's path")
    commands.add_parser("env", help="print the shell lines that point kubectl, helm and ctr at it")
    arguments = parser.parse_args()
    try:
        return _do(arguments)
    except (Failure, TimeoutError) as failure:
        say(str(failure))
        return 1


def _do(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "up":
            with node.alone():
                node.up()
        case "down":
            with node.alone():
                node.down()
        case "status":
            print("\n".join(node.status()))
        case "images":
            with node.alone():
                print(json.dumps(images.publish_product(), indent=2))
        case "kubeconfig":
            print(KUBECONFIG)
        case "env":
            print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in build.environment().items()))
    return 0


sys.exit(main())
