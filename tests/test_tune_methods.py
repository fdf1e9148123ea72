"""The search for settings: what it may draw, how it scores, and that it goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.tune_methods import SPACES, main, options_of, score

from hiper.methods import get_method
from hiper.options import method_names


def test_every_method_has_a_space() -> None:
    assert sorted(SPACES) == method_names()


@pytest.mark.parametrize("method", SPACES)
def test_what_is_drawn_is_allowed_and_follows_from_the_seed(method: str) -> None:
    assert options_of(method, 0) == {}
    for trial in range(1, 20):
        options: dict[str, Any] = dict(options_of(method, trial))
        assert options == options_of(method, trial)
        get_method(method).options(**options)
    assert len({tuple(options_of(method, trial).values()) for trial in range(1, 20)}) > 10


def test_a_failed_edit_is_worth_no_more_than_the_sentence_alone() -> None:
    assert score(1.0, 5.0, 10.0) == 5.0
    assert score(0.0, 5.0, 10.0) == 10.0
    assert score(0.0, 12.0, 10.0) == 12.0


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_stopped(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "log.json"
    common = ["--backbone", str(model_folder), "--subjects", "1", "--methods", "sdedit", "--out", str(out)]
    main([*common, "--trials", "1"])
    first = json.loads(out.read_text())["tries"]
    assert [each["options"] for each in first] == [{}]
    capsys.readouterr()
    main([*common, "--trials", "2"])
    tries = json.loads(out.read_text())["tries"]
    assert tries[:1] == first
    assert len(tries) == 2 == len(capsys.readouterr().out.splitlines()) + 1
    assert all(each["score"] >= each["colour_distance"] for each in tries)
