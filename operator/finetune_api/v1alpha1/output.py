"""What is said of an artifact beside its figures, in its model card."""

from typing import Annotated

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, ShortText, Uri, cel


class CardSpec(ApiModel):
    """What the model card says that only its author knows."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.license) || self.license != 'other' || has(self.licenseName)",
                "license other needs licenseName",
            ),
            (
                "(!has(self.licenseName) && !has(self.licenseLink)) || (has(self.license) && self.license == 'other')",
                "licenseName and licenseLink belong to license other",
            ),
        )
    )

    license: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][-a-z0-9.+]*$")] | None = None
    """Licence of the artifact by the hub's identifier, for example apache-2.0, or other. Left out, the card names none."""
    license_name: ShortText | None = None
    """What another licence is called."""
    license_link: Uri | None = None
    """Where its text is."""
    intended_use: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """What the model is for, and what it is not for; Markdown."""
