"""``python -m finetune_api crds/``: write the CustomResourceDefinitions, one file each.

With ``--chart DIR`` the same definitions are written as Helm templates behind ``crds.enabled`` and ``crds.keep``, with
``--reference FILE`` as a page for people; ``--matrix FILE`` is the page of methods and adapters.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from finetune_api import matrix
from finetune_api.crd import definitions
from finetune_api.reference import page

HEADER = "# Generated from operator/finetune_api by `python -m finetune_api`; do not edit.\n"
KEEP = "{{- if .Values.crds.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n{{- end }}\n"


def as_yaml(crd: dict[str, Any]) -> str:
    """YAML in the order of the keys, lines unwrapped."""
    return yaml.safe_dump(crd, sort_keys=False, width=1_000_000)


def as_template(crd: dict[str, Any]) -> str:
    """The definition as a Helm template; Helm's own crds/ folder is never upgraded."""
    name = f"  name: {crd['metadata']['name']}\n"
    body = as_yaml(crd).replace("{{", '{{ "{{" }}')
    head, rest = body.split(name, 1)
    return "{{- if .Values.crds.enabled }}\n" + head + name + KEEP + rest + "{{- end }}\n"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(prog="python -m finetune_api", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for the plain definitions")
    parser.add_argument("--chart", type=Path, help="folder for the Helm templates")
    parser.add_argument("--reference", type=Path, help="Markdown file for the API reference")
    parser.add_argument("--matrix", type=Path, help="Markdown file for the table of methods and adapters")
    args = parser.parse_args()
    for crd in definitions():
        name = f"{crd['metadata']['name']}.yaml"
        (args.folder / name).write_text(HEADER + as_yaml(crd))
        if args.chart:
            (args.chart / name).write_text(HEADER + as_template(crd))
    if args.reference:
        args.reference.write_text(page(definitions()))
    if args.matrix:
        args.matrix.write_text(matrix.page())


if __name__ == "__main__":
    main()
