"""The table of faults names tests that exist, and leaves no fault out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8")


@cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 76
    missing = [(file, name) for file, name in named if name not in functions(TESTS / file)]
    assert not missing


def test_every_fault_has_a_row_with_a_test_or_a_reason() -> None:
    table = PAGE.partition("## Beyond the table")[0].splitlines()
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in table if re.match(r"\| \d", line)]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 76
    assert all("::test_" in row[3] or row[3] == "cannot arise" for row in rows)
