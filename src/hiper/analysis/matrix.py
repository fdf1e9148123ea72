"""The table of methods and backbones, from what the ones require and the others are capable of.

`python -m hiper.analysis.matrix docs/backbones.md` writes the table into that page, between its two marks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from hiper.backbones import PIPELINES
from hiper.files import atomic_write
from hiper.methods import get_method
from hiper.options import METHODS

START, END = "<!-- matrix: made by python -m hiper.analysis.matrix -->\n", "<!-- end of matrix -->\n"


def lacking(requires: frozenset[str], pipeline: str) -> list[str]:
    """Return the requirements that the backbone of a diffusers pipeline lacks."""
    module, _, name = PIPELINES[pipeline].partition(":")
    capabilities: frozenset[str] = getattr(import_module(module), name).capabilities
    return sorted(requires - capabilities)


def table() -> str:
    """Return the whole table in Markdown: a row per pipeline, a column per method, and one for `hiper attention`."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in _rows())


def _rows() -> Iterator[list[str]]:
    requires = {f"`{method}`": get_method(method).requires for method in sorted(METHODS)}
    requires["`hiper attention`"] = frozenset({"cross-attention"})
    yield ["pipeline", *requires]
    yield ["---"] * (1 + len(requires))
    for pipeline in sorted(PIPELINES):
        missing = [lacking(each, pipeline) for each in requires.values()]
        yield [f"`{pipeline}`", *(f"lacks {', '.join(each)}" if each else "yes" for each in missing)]


def between(page: str, start: str, end: str, made: str) -> str:
    """Return a page with new text between its two marks."""
    before, _, rest = page.partition(start)
    after = rest.partition(end)[2]
    return f"{before}{start}\n{made}\n{end}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    page = between(path.read_text(encoding="utf-8"), START, END, table())
    atomic_write(path, page.encode(), overwrite=True)
