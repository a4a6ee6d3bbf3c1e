"""A model folder that would run code is refused before a library sees it."""

import json
from pathlib import Path

import pytest

from finetune_server.folder import check_folder
from finetune_server.protocol import ModelRefused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "model.safetensors").touch()
    check_folder(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        pytest.param("config.json", '{"auto_map": {"AutoConfig": "a.B"}}', "has auto_map", id="auto_map"),
        pytest.param(
            "tokenizer_config.json", '{"auto_map": {}}', "tokenizer_config.json has auto_map", id="a tokenizer's"
        ),
        pytest.param("sub/modeling.py", "", "brings code (modeling.py)", id="code"),
        pytest.param("adapter_config.json", "{}", "holds an adapter", id="an adapter"),
        pytest.param("config.json", "{", "config.json is not JSON", id="broken"),
    ],
)
def test_it_says_why(folder: Path, file: str, content: str, words: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(content)
    with pytest.raises(ModelRefused) as refused:
        check_folder(folder)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("file", "words"), [("config.json", "no config.json"), ("model.safetensors", r"no \*.safetensors")]
)
def test_it_says_what_is_missing(folder: Path, file: str, words: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelRefused, match=words):
        check_folder(folder)
