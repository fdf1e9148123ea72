"""The public names: all there, and none paid for before it is used."""

from __future__ import annotations

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

import hiper

ROOT = Path(__file__).parent.parent


def test_every_public_name_exists() -> None:
    assert sorted(hiper.__all__) == [name for name in dir(hiper) if name in hiper.__all__]
    assert all(callable(getattr(hiper, name)) for name in hiper.__all__)


def test_an_unknown_name_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="editt"):
        _ = hiper.editt  # type: ignore[attr-defined]


def test_names_in_rooms_that_the_documentation_gives_are_there() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    rooms = "|".join(path.parent.name for path in Path(hiper.__file__).parent.glob("*/__init__.pyi"))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(rf"`(hiper\.(?:{rooms})\.[\w.]*\w)", text))
    assert "hiper.backbones.wrap" in named
    for name in named:
        assert resolve_name(name), name
