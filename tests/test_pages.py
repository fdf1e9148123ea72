"""What is shown of a stranger's text: no tag, no character that acts unseen, no minus before a zero."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hiper.artifacts.model_card import model_card
from hiper.batch.ledger import LedgerEntry
from hiper.batch.store import open_store
from hiper.batch.summary import PAGE, SUMMARY, write_summary
from hiper.bench import IntervalEstimate
from hiper.bench.report_tables import shown_estimate, shown_number
from hiper.files import is_invisible, visible
from hiper.html import page as pages
from hiper.html import text as svg_text
from hiper.images import png_bytes
from tests import tiny
from tests.test_artifact import make

EVIL = "\x1b]0;owned\x07<b>\u202egnp.exe\u2066\x00\x9b31m\ud800"


def assert_harmless(page: str) -> None:
    assert not [c for c in page if c != "\n" and is_invisible(c)]
    assert "\\x1b" in page
    assert "\\u202e" in page
    assert "<b>" not in page


def test_what_acts_unseen_is_shown_and_what_scripts_need_stays() -> None:
    assert visible("\x1b[31m\u202e\ud800\x7f") == r"\x1b[31m\u202e\ud800\x7f"
    kept = "नि‍ 👩‍🔬 \u00a0 é\tfoo\nbar שלום"
    assert visible(kept) == kept


def test_the_summary_of_a_batch_shows_strangers_texts_harmlessly(tmp_path: Path) -> None:
    entries = {
        "a": LedgerEntry(name=EVIL, status="failed", kind="ImageError", reason=EVIL),
        "b": LedgerEntry(name=EVIL, status="done", notes=(EVIL,)),
    }
    write_summary(open_store(str(tmp_path)), entries, 1.0)
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert_harmless(page)
    assert page.count("owned") == 4
    assert json.loads((tmp_path / SUMMARY).read_bytes())["entries"]["a"]["name"] == EVIL


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-40], lambda data: b"GIF89a" + data])
def test_a_damaged_picture_keeps_nothing_else_off_a_summary(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    store, whole = open_store(str(tmp_path)), png_bytes(tiny.picture())
    store.write("jobs/a/source.png", whole)
    store.write("jobs/a/cat-0.png", damage(whole))
    write_summary(store, {"a": LedgerEntry(name="a", status="reused", place="jobs/a")}, 1.0)
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert page.count("<img") == 1
    assert page.count("damaged: cat-0") == 1


def test_pages_drawings_and_cards_show_strangers_texts_harmlessly() -> None:
    assert_harmless(pages.document(EVIL, [pages.table([[EVIL], [EVIL]])]))
    assert_harmless(svg_text(0, 0, EVIL))
    card = str(
        model_card(make(caption=EVIL, backbone=EVIL, options={EVIL: EVIL}), [], license=None, embed=None)
    )
    assert "\x1b" not in card
    assert "\u202e" not in card


@pytest.mark.parametrize("form", [".3g", "+.3g", ".0f", ".4g"])
def test_a_zero_has_no_minus(form: str) -> None:
    assert shown_number(-0.0, form).lstrip("+") == "0"
    assert shown_number(-3.5, form).startswith("-")
    assert "-" not in shown_estimate(
        IntervalEstimate(value=-0.0, low=-0.0, high=0.0, cells=12, subjects=12), form
    )


def test_what_rounds_to_zero_has_no_minus() -> None:
    assert (
        shown_estimate(IntervalEstimate(value=-0.4, low=-0.3, high=0.2, cells=12, subjects=12), ".0f")
        == "0 [0, 0]"
    )
