"""The table of methods and backbones says what the declarations say."""

from __future__ import annotations

from pathlib import Path

from hiper.analysis.matrix import END, START, between, lacking, table
from hiper.backbones import PIPELINES
from hiper.options import METHODS

PAGE = Path(__file__).parent.parent / "docs" / "backbones.md"


def test_the_page_is_of_today() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert table() in page, "run python -m hiper.analysis.matrix docs/backbones.md"
    assert between(page, START, END, table()) == page
    assert all(f"`{name}`" in page.split("## Methods")[0] for name in PIPELINES)


def test_what_is_lacking_is_named() -> None:
    assert lacking(frozenset({"token_embeddings", "cross-attention"}), "FluxPipeline") == ["cross-attention"]
    assert lacking(frozenset({"token_embeddings"}), "FluxPipeline") == []
    assert table().count("lacks cross-attention") == len(PIPELINES) - 2
    assert len(table().splitlines()) == len(PIPELINES) + 2
    assert table().splitlines()[0].count("`") == 2 * (len(METHODS) + 1)
