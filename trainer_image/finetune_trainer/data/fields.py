"""One field of a row: there, of the right type, and not empty. Used by every format."""

import json
from typing import Any

from finetune_trainer.data.findings import Broken, describe

Row = dict[str, Any]

TRUE_WORDS = {"true", "1"}
FALSE_WORDS = {"false", "0"}


def text(container: Row, key: str, where: str = "") -> str:
    """A non-empty string that can be stored."""
    value = present(container, key, where, "a non-empty string")
    if not isinstance(value, str) or not value.strip():
        raise Broken(where or key, describe(value), "a non-empty string")
    return storable(value, where or key)


def storable(value: str, where: str) -> str:
    """The string, if it can be written as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Broken(where, "half of a surrogate pair", "text that can be written as UTF-8") from None
    return value


def present(container: Row, key: str, where: str, expected: str) -> Any:
    """The value of a key that must be there."""
    if key not in container:
        raise Broken(where or key, "nothing", expected)
    return container[key]


def entries(container: Row, key: str, expected: str) -> list[Any]:
    """A list with something in it; CSV has it as a string of JSON."""
    value = unpacked(present(container, key, "", expected), key, expected)
    if not isinstance(value, list) or not value:
        raise Broken(key, describe(value), expected)
    return value


def truth(container: Row, key: str) -> bool:
    """A boolean; columns of other kinds of files have it as 0 and 1, or as a word."""
    value = present(container, key, "", "true or false")
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, int | str) else ""
    if word not in TRUE_WORDS | FALSE_WORDS:
        raise Broken(key, describe(value), "true or false")
    return word in TRUE_WORDS


def unpacked(value: Any, where: str, expected: str) -> Any:
    """A structure; some datasets hold it as a string of JSON, as their columns have one type."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Broken(where, "a string that is no JSON", expected) from None
