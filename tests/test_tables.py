"""The figures of README and docs: they are those of the files in benchmarks/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks import tables


def test_the_pages_have_the_figures_of_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_every_table_is_on_a_page() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in tables.PAGES)
    assert {name for _, name, _ in tables.MARKED.findall(pages)} == tables.TABLES.keys()
    assert pages.count("<!-- table: ") == len(tables.MARKED.findall(pages)) == pages.count("<!-- end -->")


LOGS = ("decisions.md",)
"""Pages that say what was known on the day."""


@pytest.mark.parametrize(
    "page", [page for page in tables.PAGES if page.name not in LOGS], ids=lambda page: page.name
)
def test_a_page_says_of_other_figures_that_no_file_stands_behind_them(page: Path) -> None:
    outside = tables.MARKED.sub("", page.read_text(encoding="utf-8"))
    measured = re.search(r"\d \[[-+]?\d*\.?\d+, [-+]?\d*\.?\d+\]", outside)
    assert measured is None or re.search(r"no\s+file\s+stands\s+behind", outside), measured


def test_a_figure_typed_by_hand_is_seen() -> None:
    page = (tables.HERE.parent / "docs" / "comparison.md").read_text(encoding="utf-8")
    assert tables.written(page) == page
    typed = re.sub(r"\d\.\d\d", "9.99", page, count=1)
    assert typed != page
    assert tables.written(typed) == page


def test_a_gain_and_a_lead_are_positive_where_they_are_better() -> None:
    nearer = {"value": -1.5, "low": -2.0, "high": -1.0}
    assert tables.gain(nearer, "colour_distance") == "+1.50 [1.00, 2.00]"
    assert tables.gain(nearer, "identity") == "-1.50 [-2.00, -1.00]"
    assert tables.lead(nearer, "colour_distance") == "-1.50 [-2.00, -1.00]"
    assert tables.lead(nearer, "identity") == "+1.50 [1.00, 2.00]"
