"""The frame of a page, and its tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape
from importlib import resources

__all__ = ["page", "table"]

# What a page holds is drawn; whatever slipped into it is not run, and fetches nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, body: Iterable[str], *, style: str = "") -> str:
    """Return a whole page, light or dark as its reader's system is.

    Args:
        title: Plain text.
        body: HTML, joined by line breaks.
        style: CSS of its own, behind the common one.
    """
    common = resources.files("asa_engine.pages").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{common}{style}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> str:
    """Return a table; cells are HTML already, columns in `numbers` are set flush right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="number">{cell}</{tag}>' if i in numbers else f"<{tag}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    lines = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody></table></div>"
    )
