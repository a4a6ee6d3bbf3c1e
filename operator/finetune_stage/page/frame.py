"""What every page and its sections are made of. Texts are escaped by those who bring them."""

from collections.abc import Iterable, Set

from finetune_stage.page.style import STYLE


def document(title: str, sections: Iterable[str]) -> str:
    """The whole page; ``title`` is escaped already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """Nothing where there is nothing to show."""
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def table(head: list[str], rows: list[list[str]], numbers: Set[int] = frozenset()) -> str:
    """``numbers``: the columns that hold some."""

    def row(cells: list[str], tag: str) -> str:
        shown = [f"<{tag}{' class=number' if i in numbers else ''}>{cell}</{tag}>" for i, cell in enumerate(cells)]
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="scroll"><table><thead>{row(head, "th")}</thead><tbody>{body}</tbody></table></div>'
