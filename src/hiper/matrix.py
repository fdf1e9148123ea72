"""Which method works with which backbone, read off what the one needs and the other offers.

`python -m hiper.matrix docs/backbones.md` writes the table into that page, between its two marks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from hiper.backbones import PIPELINES
from hiper.files import atomic_write
from hiper.methods import METHODS, get_method

START, END = "<!-- matrix: made by python -m hiper.matrix -->\n", "<!-- end of matrix -->\n"


def lacking(needs: frozenset[str], pipeline: str) -> list[str]:
    """Return what is needed and not offered by the backbone of that diffusers pipeline."""
    module, _, name = PIPELINES[pipeline].partition(":")
    offers: frozenset[str] = getattr(import_module(module), name).offers
    return sorted(needs - offers)


def table() -> str:
    """Return the whole table in Markdown: a row per pipeline, a column per method, and one for `hiper attention`."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in _rows())


def _rows() -> Iterator[list[str]]:
    needs = {f"`{method}`": get_method(method).needs for method in sorted(METHODS)}
    needs["`hiper attention`"] = frozenset({"cross-attention"})
    yield ["pipeline", *needs]
    yield ["---"] * (1 + len(needs))
    for pipeline in sorted(PIPELINES):
        missing = [lacking(each, pipeline) for each in needs.values()]
        yield [f"`{pipeline}`", *(f"lacks {', '.join(each)}" if each else "yes" for each in missing)]


def between(page: str, start: str, end: str, made: str) -> str:
    """Return the page with what was made between its two marks."""
    before, _, rest = page.partition(start)
    after = rest.partition(end)[2]
    return f"{before}{start}\n{made}\n{end}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    page = between(path.read_text(encoding="utf-8"), START, END, table())
    atomic_write(path, page.encode(), overwrite=True)
