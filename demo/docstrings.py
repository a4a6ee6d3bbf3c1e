"""Make the demo's data from the documentation of the running Python's own standard library.

Runs in a pod of the trainer image: ``python docstrings.py s3://bucket/folder``. Two tasks come out of one reading:

- ``pretrain.jsonl``: raw text for continued pretraining, one docstring each with the name of its module;
- ``train|validation|test.jsonl``: which area of the library does a docstring belong to?

The held-out rows of the second task, and near copies of them, are left out of the first.
"""

import ast
import importlib
import inspect
import json
import random
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

AREAS = {
    "async": "asyncio concurrent threading multiprocessing queue contextvars sched selectors signal subprocess _threading_local",
    "code": "ast bdb cProfile code codeop compileall dis doctest importlib inspect modulefinder opcode pdb pkgutil profile pstats"
    " py_compile pyclbr pydoc runpy symtable timeit token tokenize trace traceback tracemalloc types typing unittest warnings",
    "files": "_pyio bz2 configparser csv dbm filecmp fileinput fnmatch genericpath glob gzip io lzma mmap ntpath os pathlib pickle"
    " plistlib posix posixpath shelve shutil stat tarfile tempfile tomllib zipapp zipfile zipimport zlib",
    "math": "_pydecimal bisect cmath colorsys datetime _pydatetime fractions heapq itertools math numbers random statistics",
    "network": "email ftplib html http imaplib ipaddress mailbox mimetypes poplib smtplib socket socketserver ssl urllib webbrowser"
    " wsgiref xmlrpc",
}
LABELS = tuple(AREAS)
AREA_OF = {module: area for area, modules in AREAS.items() for module in modules.split()}
SKIPPED = {"test", "tests", "idlelib", "site-packages", "dist-packages", "lib2to3", "ensurepip"}
BUILTIN = (
    "builtins",
    "itertools",
    "math",
    "cmath",
    "posix",
    "time",
    "sys",
    "_io",
    "_thread",
    "_datetime",
    "_socket",
    "_ssl",
    "zlib",
)
SHORTEST = 40
SHORTEST_QUESTION = 80  # shorter ones ("Return the value.") fit any area
PROMPT_CHARACTERS = 240
NEAR_COPY_CHARACTERS = 80
SEED = 42


class Docstring(NamedTuple):
    """A text and where it stands, for example asyncio.queues.Queue.get."""

    name: str
    text: str

    @property
    def area(self) -> str | None:
        """Area of the library, for the modules that have one."""
        return AREA_OF.get(self.name.split(".")[0])

    @property
    def start(self) -> str:
        """What near copies have in common."""
        return " ".join(self.text.lower().split())[:NEAR_COPY_CHARACTERS]


def docstrings() -> list[Docstring]:
    """Every distinct docstring of the standard library, in a fixed order; of near copies the first."""
    first: dict[str, Docstring] = {}
    for found in (*_from_source(), *_from_builtins(), *_from_language_reference()):
        if len(found.text) >= SHORTEST:
            first.setdefault(found.start, found)
    return sorted(first.values())


def _from_source() -> Iterator[Docstring]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if SKIPPED.isdisjoint(parts):
            module = ".".join(part for part in parts if part != "__init__")
            try:
                tree = ast.parse(path.read_bytes())
            except SyntaxError:  # lib2to3-style fixtures are Python 2 on purpose
                continue
            yield from _of_tree(tree, module)


def _of_tree(node: ast.AST, name: str) -> Iterator[Docstring]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield Docstring(name, text)
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _of_tree(child, f"{name}.{child.name}" if named else name)  # type: ignore[attr-defined]


def _from_builtins() -> Iterator[Docstring]:
    """What is written in C has no source to parse."""
    for module_name in BUILTIN:
        module = importlib.import_module(module_name)
        public = module_name.removeprefix("_")
        for name, value in sorted(vars(module).items()):
            members = [(name, value), *((f"{name}.{key}", item) for key, item in _members(value))]
            for path, item in members:
                text = getattr(item, "__doc__", None)
                if isinstance(text, str) and callable(item):
                    yield Docstring(f"{public}.{path}", inspect.cleandoc(text))


def _from_language_reference() -> Iterator[Docstring]:
    """The texts of help() on keywords and topics."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Docstring(f"topics.{name}", text)


def _members(value: object) -> list[tuple[str, object]]:
    return sorted(vars(value).items(), key=lambda pair: pair[0]) if inspect.isclass(value) else []


def area_rows(found: list[Docstring], seed: int) -> dict[str, list[Docstring]]:
    """The docstrings with an area, split 80/10/10 by a seeded shuffle."""
    labelled = [docstring for docstring in found if docstring.area and len(docstring.text) >= SHORTEST_QUESTION]
    random.Random(seed).shuffle(labelled)
    tenth = len(labelled) // 10
    return {"test": labelled[:tenth], "validation": labelled[tenth : 2 * tenth], "train": labelled[2 * tenth :]}


def question(docstring: Docstring) -> dict[str, str]:
    """A row of the second task."""
    return {"prompt": f"{docstring.text[:PROMPT_CHARACTERS]}\nArea:", "completion": f" {docstring.area}"}


def pretraining_rows(found: list[Docstring], held_out: list[Docstring]) -> list[dict[str, str]]:
    """Raw text of everything that is not held out."""
    hidden = {docstring.start for docstring in held_out}
    return [{"text": f"{d.text}\nModule: {d.name}"} for d in found if d.start not in hidden]


def files(seed: int = SEED) -> dict[str, list[dict[str, str]]]:
    """File name -> rows."""
    found = docstrings()
    split = area_rows(found, seed)
    held_out = split["validation"] + split["test"]
    rows = {f"{name}.jsonl": [question(d) for d in part] for name, part in split.items()}
    return {"pretrain.jsonl": pretraining_rows(found, held_out), **rows}


def main() -> None:
    """Write the files to the given s3:// folder; a file that is already there with the same rows is left alone."""
    from finetune_api.pods import SECRETS_DIR
    from finetune_storage import open_store

    store = open_store(sys.argv[1], Path(SECRETS_DIR) / "s3")
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in files().items():
            path = Path(folder) / name
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            store.upload(path, name)
            print(f"{sys.argv[1]}/{name}: {len(rows):,} rows, {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
