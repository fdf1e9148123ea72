"""docs/methods.md says what the methods declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hiper.methods import Method, get_method
from hiper.options import METHODS

PAGE = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")


def outside(method: Method[Any]) -> str:
    """By what other programs take what was learnt."""
    exports = type(method).exported is not Method.exported
    ways = ["`hiper export`"] * exports + ["`hiper.prompt_embeds`"] * method.token_embeddings_only
    return ", ".join(ways) or "no"


def method_row(method: Method[Any]) -> str:
    cells = [
        f"`{method.name}`",
        method.learns,
        ", ".join(sorted(method.requires)),
        "one sentence" if method.per_sentence else "all sentences",
        outside(method),
        ", ".join(method.presets),
        method.paper,
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_methods(method: str) -> None:
    assert method_row(get_method(method)) in PAGE.splitlines()


def test_nothing_else_is_in_the_table() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `") and "arXiv" in line]
    assert len(rows) == len(METHODS)
