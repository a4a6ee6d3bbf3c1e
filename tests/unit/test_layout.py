"""The layout that keeps ``operator/`` from shadowing the standard library, and the sizes the house style asks for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = [ROOT / "operator", ROOT / "trainer_image"]
PACKAGES = sorted(path.parent for room in ROOMS for path in room.glob("*/__init__.py"))
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
MAX_LINES = 300
MAX_FUNCTION_LINES = 40


def test_the_walk_finds_the_packages() -> None:
    names = {package.name for package in PACKAGES}
    assert {"finetune_api", "finetune_storage", "finetune_stage", "finetune_operator", "finetune_gateway"} <= names
    assert {"finetune_trainer", "finetune_server"} <= names
    assert len(MODULES) > 50


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_is_a_plain_folder(room: Path) -> None:
    """An __init__.py or module in operator/ breaks every ``python -m`` from the root; a test or conftest breaks pytest."""
    assert [path.name for path in room.glob("*.py")] == []
    assert [path for path in room.rglob("*.py") if path.name == "conftest.py" or path.name.startswith("test_")] == []


def test_tests_are_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    assert not (ROOT / "tests" / "operator").exists(), "it would shadow the standard library's operator"


@pytest.mark.parametrize("command", [["-c", "import operator; operator.itemgetter"], ["-m", "json.tool", "--help"]])
def test_python_works_from_the_root(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    top = [module for module in MODULES if module.parent in PACKAGES]
    assert [
        str(module.relative_to(ROOT)) for module in top if module.stem in sys.stdlib_module_names - {"__main__"}
    ] == []


def test_the_wheel_lists_every_package() -> None:
    import tomllib

    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {ROOT / name for name in config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert listed == set(PACKAGES)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_a_module_says_its_role_and_stays_small(module: Path) -> None:
    text = module.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the module docstring names the role and the neighbours"
    if "finetune_api" not in module.parts:  # the vocabulary is a list: one file per kind
        assert len(text.splitlines()) <= MAX_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"
