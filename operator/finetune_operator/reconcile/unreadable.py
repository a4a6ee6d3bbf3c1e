"""An object stored under another version of its definition: which fields this operator cannot read, as a sentence. Pure."""

from pydantic import ValidationError

SHOWN = 5
"""Fields that are named; they tend to have one cause."""


def fields(error: ValidationError) -> str:
    """The fields, each with what is wrong with it."""
    found = error.errors(include_url=False, include_input=False)[:SHOWN]
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found)


def message(error: ValidationError) -> str:
    """What its own status says."""
    return (
        f"This operator cannot read the object ({fields(error)}); correct the fields, "
        "or install the operator of the definition's version."
    )
