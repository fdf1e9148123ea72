"""docs/troubleshooting.md quotes messages that hiper writes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hiper

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def written() -> str:
    """Every text of the package and of the Makefile."""
    nodes = (
        node
        for path in Path(hiper.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join([*texts, (ROOT / "Makefile").read_text(encoding="utf-8")])


def test_every_message_of_the_page_is_written_somewhere(written: str) -> None:
    pieces = [piece.strip() for message in QUOTED for piece in message.split("...")]
    assert len(pieces) > len(QUOTED) > 50
    assert [piece for piece in pieces if piece not in written] == []
