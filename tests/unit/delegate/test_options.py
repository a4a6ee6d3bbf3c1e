"""docs/providers.md says of every option of the two clients what it is made of, or that it is refused."""

import inspect
import re
from pathlib import Path

import pytest
from google.genai import types
from openai.resources.fine_tuning.jobs import Jobs
from openai.types.fine_tuning import dpo_hyperparameters_param, supervised_hyperparameters_param

PAGE = (Path(__file__).parents[3] / "docs" / "providers.md").read_text()


def options_of(heading: str) -> set[str]:
    """First column of the table below a heading."""
    section = PAGE.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}


@pytest.mark.parametrize(("heading", "known"), [
    ("Options of Vertex AI", {*types.CreateTuningJobConfig.model_fields}),
    (
        "Options of OpenAI's API",
        {name for name in inspect.signature(Jobs.create).parameters if not name.startswith("extra_")}
        - {"self", "timeout"}
        | {*supervised_hyperparameters_param.SupervisedHyperparametersParam.__annotations__}
        | {*dpo_hyperparameters_param.DpoHyperparametersParam.__annotations__},
    ),
])  # fmt: skip
def test_every_option_of_the_client_is_spoken_of(heading: str, known: set[str]) -> None:
    assert len(known) > 9
    assert known - options_of(heading) == set()
