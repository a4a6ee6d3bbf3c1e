"""report.html: one page that needs nothing but a browser: no network, no script, readable in light and dark and on a phone. Pure."""

from finetune_stage.page.data import data_page
from finetune_stage.page.page import Contents, page
from finetune_stage.page.samples import Sample

__all__ = ["Contents", "Sample", "data_page", "page"]
