"""Known answers for the statistics, and what a report says of cells that are written here by hand."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiper.bench import (
    FEWEST,
    CellResult,
    IntervalEstimate,
    Rows,
    build_report,
    difference,
    gap_closed,
    mean,
    write_report,
)
from hiper.bench.records import Run, RunKey
from hiper.bench.report_tables import shown_estimate
from hiper.bench.statistics import summarise
from hiper.cli import main
from hiper.errors import HiperError, OptionError, OutputError
from tests.small_suite import METRICS

ARMS = ("none", "hiper", "hiper,num_train_steps=3", "truth")
SUBJECTS = ("ann", "ben", "cy")
EDITS = ("moved", "dark")
HOSTILE = 'a "dog" <script>alert(1)</script> | & `x`'

# statistics


def test_a_summary_is_numpys() -> None:
    values = [3.0, None, 4.5, -1.0]
    summary = summarise(values)
    assert summary.count == 3
    assert summary.mean == pytest.approx(np.mean([3.0, 4.5, -1.0]))
    assert summary.deviation == pytest.approx(np.std([3.0, 4.5, -1.0], ddof=1))
    assert (summarise([]).mean, summarise([1.0]).deviation, summarise([None]).count) == (None, None, 0)


def test_subjects_that_all_agree_give_no_interval() -> None:
    """Ten successes of ten do not show that there are no failures."""
    random = np.random.default_rng(5)
    rows = {str(s): [(x + 0.25, x) for x in random.random(s + 1)] for s in range(12)}
    found = difference(rows)
    assert found is not None
    assert (found.cells, found.subjects) == (78, 12)
    assert found.value == pytest.approx(0.25)
    assert (found.low, found.high) == (None, None)


def test_without_skewness_an_interval_is_students() -> None:
    """The mean of -5 .. 5 has the standard error 1; t of 10 degrees of freedom ends at 2.228 (printed tables)."""
    rows: Rows = {str(s): [(float(s), 1.0)] * 3 for s in range(-5, 6)}
    found = difference(rows)
    assert found is not None
    assert [found.value, found.low, found.high] == pytest.approx([-1, -1 - 2.228, -1 + 2.228], abs=1e-3)
    assert found == difference(rows)


def test_a_mean_of_unequal_subjects_is_one_over_cells() -> None:
    """The influence of a subject is what the mean moves by when its cells count a little more (Davison, Hinkley)."""
    random = np.random.default_rng(8)
    rows: Rows = {
        str(s): [(float(a), float(b)) for a, b in random.normal(s, 1, (s % 3 + 1, 2))] for s in range(12)
    }
    cells = [(a - b, s) for s, rows_of in enumerate(rows.values()) for a, b in rows_of]

    def weighted(weights: Any) -> float:
        return float(sum(weights[s] * x for x, s in cells) / sum(weights[s] for _, s in cells))

    moved = np.eye(12) * 1e-6
    influences = np.array([(weighted(1 + move) - weighted(1 - move)) / 2e-6 * 12 for move in moved])
    found = difference(rows)
    assert found is not None
    assert found.value == pytest.approx(np.mean([x for x, _ in cells]))
    half = 2.201 * influences.std(ddof=1) / math.sqrt(12)  # t of 11 degrees of freedom
    assert found.low is not None
    assert found.high is not None
    assert min(found.value - found.low, found.high - found.value) == pytest.approx(half, rel=2e-3)


def test_subjects_are_what_counts_not_cells() -> None:
    """Fifty cells in place of one leave the interval as wide as the subjects make it."""
    few: Rows = {str(s): [(float(s % 3), 0.0)] for s in range(10)}
    many: Rows = {name: [row for row in cells for _ in range(50)] for name, cells in few.items()}
    one, other = difference(few), difference(many)
    assert one is not None
    assert other is not None
    assert one.low is not None
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


SCORES: dict[str, tuple[Callable[[np.random.Generator, int], Any], float]] = {
    "normal": (lambda random, n: random.normal(0, 1, n), 0.0),
    "exponential": (lambda random, n: random.exponential(1, n), 1.0),
    "log-normal": (lambda random, n: random.lognormal(0, 1, n), math.exp(0.5)),
    "half succeed": (lambda random, n: random.random(n) < 0.5, 0.5),
    "most succeed": (lambda random, n: random.random(n) < 0.9, 0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("subjects", [3, 5, 10, 30])
@pytest.mark.parametrize("scores", SCORES)
def test_intervals_cover_what_they_claim(scores: str, subjects: int) -> None:
    """No interval, or one with the true mean in it 95 % of the time; of heavy tails, which 10 hide, at least 88 %."""
    draw, truth = SCORES[scores]
    random = np.random.default_rng(subjects)
    found = [mean({str(i): [(float(x),)] for i, x in enumerate(draw(random, subjects))}) for _ in range(400)]
    intervals = [
        (each.low, each.high) for each in found if each and each.low is not None and each.high is not None
    ]
    if subjects < FEWEST:
        assert intervals == []
        return
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert len(intervals) > 200
    assert covered >= (0.88 if scores == "log-normal" else 0.925)


def test_intervals_of_the_gap_cover_as_well() -> None:
    """Three cells of a subject share its luck; the gap between 18 and 4 is closed by half."""
    random = np.random.default_rng(2)
    covered = []
    for _ in range(200):
        luck, skewed = random.normal(0, 2, (10, 3)), random.exponential(3, 10) - 3
        levels = luck + np.array([18.0, 11.0, 4.0]) + np.outer(skewed, [0, 1, 0])
        rows: Rows = {
            str(s): [tuple(map(float, level + random.normal(0, 1, 3))) for _ in range(s % 3 + 1)]
            for s, level in enumerate(levels)
        }
        found = gap_closed(rows, "lower")
        assert found is not None
        if found.low is not None and found.high is not None:  # else the gap itself is in doubt
            covered.append(found.low <= 50 <= found.high)
    assert len(covered) > 190
    assert np.mean(covered) >= 0.92


def test_one_subject_gives_no_interval() -> None:
    found = difference({"a": [(1.0, 0.0), (3.0, 0.0)]})
    assert found is not None
    assert (found.value, found.low, found.high) == (2.0, None, None)
    assert difference({}) is None
    assert gap_closed({}, "lower") is None


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_the_floor_closes_nothing_and_the_ceiling_all(better: str) -> None:
    sign = 1.0 if better == "higher" else -1.0
    random = np.random.default_rng(1)
    pairs = [(float(x), float(x + sign * (1 + y))) for x, y in random.random((12, 2))]
    for place, percent in ((0.0, 0.0), (1.0, 100.0), (0.5, 50.0), (-0.5, -50.0), (1.5, 150.0)):
        rows = {str(i): [(f, f + place * (c - f), c)] for i, (f, c) in enumerate(pairs)}
        found = gap_closed(rows, "higher" if better == "higher" else "lower")
        assert found is not None
        assert found.value == pytest.approx(percent, abs=1e-9)
        assert found.low is None  # all subjects agree


def test_a_ceiling_below_the_floor_is_no_gap() -> None:
    rows: Rows = {"a": [(1.0, 1.5, 2.0)], "b": [(1.0, 1.5, 2.0)]}
    assert gap_closed(rows, "lower") is None
    assert gap_closed({"a": [(1.0, 1.0, 1.0)]}, "higher") is None
    for sure in (True, False):
        last = (1.0, 1.0, 1.9) if sure else (1.0, 1.0, -7.0)  # its gap alone decides
        rows = {**{str(s): [(1.0, 1.5, 2.0)] for s in range(11)}, "last": [last]}
        found = gap_closed(rows, "higher")
        assert found is not None
        assert found.value == pytest.approx(100 * 5.5 / (11.9 if sure else 3.0))
        assert (found.low is not None) is sure


# reports


def score(arm: str, subject: str, edit: str, seed: int) -> float:
    """Distances in which hiper is 2 better than none and the truth 4, whatever the subject."""
    base = 10.0 + 3 * SUBJECTS.index(subject) + EDITS.index(edit) + 0.5 * seed
    return base - {"none": 0.0, "hiper": 2.0, "hiper,num_train_steps=3": 1.0, "truth": 4.0}[arm]


def make_cell(arm: str, subject: str, edit: str, seed: int) -> CellResult:
    fitted = arm.startswith("hiper")
    return CellResult(
        suite={"suite": "squares"},
        arm=arm,
        options={},
        settings={},
        subject=subject,
        edit=edit,
        seed=seed,
        caption="a standing dog",
        prompt=HOSTILE,
        scores={"distance": score(arm, subject, edit, seed), "colour": 0.5 if edit == "moved" else None},
        flagged=False,
        fit_seconds=1.0 + SUBJECTS.index(subject) if fitted else None,
        edit_seconds=None if arm == "truth" else 0.5,
        artifact_bytes=15000 if fitted else None,
        versions={"hiper": "0"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = Run(
        identity=RunKey(
            suite={"suite": "squares|<i>", "seed": 0},
            backbone="tiny",
            weights_sha256="0" * 64,
            device="cpu",
            dtype="float32",
            seed=0,
        ),
        metrics=METRICS,
        arms={arm: {} for arm in ARMS},
        slugs={arm: arm.replace(",", "-").replace("=", "-") for arm in ARMS},
        subjects=dict.fromkeys(SUBJECTS, EDITS),
        seeds=2,
    )
    run.save(tmp_path)
    for arm in ARMS:
        for subject in SUBJECTS:
            for (edit, seed), path in run.paths(tmp_path, arm, subject).items():
                path.parent.mkdir(parents=True, exist_ok=True)
                make_cell(arm, subject, edit, seed).save(path)
                Image.new("RGB", (8, 8), "red").save(path.with_suffix(".png"))
    (tmp_path / "subjects" / "ann").mkdir(parents=True)
    Image.new("RGB", (600, 300), "blue").save(tmp_path / "subjects" / "ann" / "source.png")
    return tmp_path


def test_a_row_has_the_means_of_its_arm(folder: Path) -> None:
    report = build_report(folder)
    rows = {row.arm: row for row in report.rows}
    assert list(rows) == list(ARMS)
    values = [score("hiper", s, e, seed) for s in SUBJECTS for e in EDITS for seed in (0, 1)]
    distance = rows["hiper"].scores["distance"]
    assert distance.mean == pytest.approx(np.mean(values))
    assert distance.count == 12
    assert distance.deviation == pytest.approx(np.std(values, ddof=1))
    assert rows["hiper"].scores["colour"].count == 6
    assert (rows["hiper"].fit_seconds.mean, rows["hiper"].fit_seconds.count) == (2.0, 3)
    assert (rows["hiper"].edit_seconds.mean, rows["hiper"].artifact_bytes.mean) == (0.5, 15000)
    assert (rows["none"].fit_seconds.mean, rows["truth"].edit_seconds.mean) == (None, None)
    dark = next(row for row in report.rows_by_edit if (row.arm, row.edit) == ("hiper", "dark"))
    assert (dark.cells, dark.scores["colour"].count) == (6, 0)
    assert dark.scores["distance"].mean == pytest.approx(np.mean(values) + 0.5)
    assert (report.expected, report.missing, len(report.notes)) == (48, 0, 1)
    assert "3 subjects" in report.notes[0]  # too few for intervals


def test_arms_are_compared_over_the_cells_they_share(folder: Path) -> None:
    run = Run.load(folder)
    run.paths(folder, "hiper", "ann")["moved", 0].unlink()
    run.paths(folder, "none", "cy")["dark", 1].unlink()
    report = build_report(folder)
    found = {(each.arm, each.metric): each for each in report.comparisons}
    none = found["none", "distance"].difference
    assert report.reference == "hiper"
    assert none is not None
    assert none.value == pytest.approx(2.0)
    assert (none.low, none.high) == (None, None)
    assert (none.cells, none.subjects) == (10, 3)
    assert found["hiper", "distance"].difference is None
    gap = {arm: found[arm, "distance"].gap_closed for arm in ARMS}
    percents = {arm: each.value for arm, each in gap.items() if each is not None}
    assert percents == pytest.approx(
        {"none": 0.0, "hiper": 50.0, "hiper,num_train_steps=3": 25.0, "truth": 100.0}
    )
    assert gap["hiper"] is not None
    assert gap["hiper"].cells == 10
    assert found["hiper", "colour"].gap_closed is None
    assert report.missing == 2
    assert report.notes[0] == "incomplete: 2 of 48 cells are missing; the same run goes on with them"


def test_another_reference(folder: Path) -> None:
    report = build_report(folder, "none")
    found = {(each.arm, each.metric): each.difference for each in report.comparisons}
    hiper = found["hiper", "distance"]
    assert hiper is not None
    assert hiper.value == pytest.approx(-2.0)
    with pytest.raises(OptionError, match=r"'hipr'.*did you mean hiper\?"):
        build_report(folder, "hipr")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.sources += [values["src"] or ""] if "src" in values else []
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""


def test_the_page_stands_alone_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    write_report(build_report(folder), folder, tmp_path / "out", overwrite=False)
    text = (tmp_path / "out" / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert not {"script", "link", "iframe", "i", "b", "object"} & set(page.tags)
    assert "default-src 'none'" in page.policy
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert len(page.sources) == len(SUBJECTS) * len(EDITS) * len(ARMS) + len(EDITS)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert not re.search(r"https?://", text)


def test_markdown_keeps_its_columns(folder: Path, tmp_path: Path) -> None:
    write_report(build_report(folder), folder, tmp_path / "out", overwrite=False)
    text = (tmp_path / "out" / "report.md").read_text()
    arms = [line for line in text.split("## ")[1].splitlines() if line.startswith("|")]
    assert len(arms) == 2 + len(ARMS)
    assert len({line.count(" | ") for line in arms}) == 1
    assert "| hiper | 11.8 ± 2.62 (12) |" in arms[3].replace("\\", "")
    assert "squares\\|\\<i\\>" in text
    assert "<b>" not in text.replace("\\<b", "")
    assert "| hiper,num_train_steps=3 | +1 |" in text.replace("\\", "")
    assert "| hiper | 50 | – |" in text
    assert "none under 10 subjects" in text
    estimate = IntervalEstimate(value=1, low=0.5, high=1.5, cells=20, subjects=10)
    assert shown_estimate(estimate, "+.3g") == "+1 [+0.5, +1.5]"


def test_csv_holds_the_figures(folder: Path, tmp_path: Path) -> None:
    write_report(build_report(folder), folder, tmp_path / "out", overwrite=False)
    cells = list(csv.DictReader((tmp_path / "out" / "cells.csv").read_text().splitlines()))
    assert len(cells) == 48
    one = next(
        c for c in cells if (c["arm"], c["subject"], c["edit"], c["seed"]) == ("hiper", "cy", "dark", "1")
    )
    assert float(one["distance"]) == score("hiper", "cy", "dark", 1)
    assert (one["colour"], one["artifact_bytes"]) == ("", "15000")
    lines = list(csv.DictReader((tmp_path / "out" / "report.csv").read_text().splitlines()))
    whole = next(
        line for line in lines if (line["arm"], line["edit"], line["metric"]) == ("hiper", "", "distance")
    )
    assert float(whole["gap_closed"]) == pytest.approx(50)
    assert whole["gap_closed_low"] == ""
    assert len(lines) == len(ARMS) * len(METRICS) * (1 + len(EDITS))


def test_a_report_of_nothing_yet(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "cells").rglob("*.json"):
        path.unlink()
    report = build_report(folder)
    write_report(report, folder, tmp_path / "out", overwrite=False)
    assert report.missing == 48
    assert "48 of 48 cells are missing" in (tmp_path / "out" / "report.html").read_text()


# mistakes


@pytest.mark.slow
def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "report", str(folder), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["expected"], record["missing"], record["reference"]) == (48, 0, "hiper")
    assert {Path(path).name for path in record["files"]} == {
        "report.md",
        "report.csv",
        "cells.csv",
        "report.html",
    }
    assert main(["bench", "report", str(folder)]) == 0
    assert "| hiper |" in capsys.readouterr().out
    assert main(["bench", "report", str(folder), "--out", str(folder / "report")]) == 2
    assert "--overwrite" in capsys.readouterr().err


DAMAGE = ("", "{", "[]", "{}", '{"schema": 2}', '{"arm": 3}', "\x00")


@pytest.mark.parametrize("text", DAMAGE)
def test_a_damaged_run_is_named(folder: Path, text: str) -> None:
    (folder / "run.json").write_text(text)
    with pytest.raises(OptionError, match=r"run\.json") as refused:
        build_report(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", [*DAMAGE, None])
def test_a_damaged_cell_keeps_no_other_back(folder: Path, text: str | None) -> None:
    path = folder / "cells/hiper/ann/moved-0.json"
    path.unlink()
    path.mkdir() if text is None else path.write_text(text)
    report = build_report(folder)
    assert (report.missing, len(report.cells["hiper"])) == (1, 11)
    notes = [note for note in report.notes if "moved-0.json" in note]
    assert len(notes) == 1
    assert "\n" not in notes[0]


def test_a_damaged_picture_keeps_no_report_back(folder: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(folder.glob("cells/hiper/ann/*.png"))):
        path.write_bytes(path.read_bytes()[:-40] if number else b"")
    (folder / "subjects/ann/source.png").write_bytes(b"GIF89a")
    write_report(build_report(folder), folder, tmp_path / "out", overwrite=False)
    page = (tmp_path / "out/report.html").read_text()
    assert "damaged: source" in page
    assert "damaged: hiper" in page


def test_no_picture_behind_a_link_reaches_a_report(folder: Path, tmp_path: Path) -> None:
    """Who publishes a report of a stranger's folder publishes none of their own pictures."""
    private = tmp_path.parent / f"{tmp_path.name}-private"
    (private / "ann").mkdir(parents=True)
    for name in ("source.png", "moved-0.png"):
        Image.new("RGB", (8, 8), "green").save(private / "ann" / name)
    before = write_report(build_report(folder), folder, tmp_path / "before", overwrite=False)
    (folder / "cells/hiper/ann/moved-0.png").unlink()
    (folder / "cells/hiper/ann/moved-0.png").symlink_to(private / "ann/moved-0.png")
    shutil.rmtree(folder / "subjects/ann")
    (folder / "subjects/ann").symlink_to(private / "ann", target_is_directory=True)
    after = write_report(build_report(folder), folder, tmp_path / "after", overwrite=False)
    counts = [written.files[-1].read_text().count("<img") for written in (before, after)]
    assert counts[0] - counts[1] == 3  # the source beside each of its two edits, and a cell


def test_a_run_whose_names_are_no_file_names_is_damaged(folder: Path) -> None:
    run = json.loads((folder / "run.json").read_text())
    run["subjects"] = {"ann": ["x" * 300]}
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(OptionError, match=r"run\.json.* is damaged"):
        build_report(folder)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no run\.json"):
        build_report(tmp_path)


def test_a_folder_that_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create"):
        write_report(build_report(folder), folder, tmp_path / "file" / "out", overwrite=False)


def test_a_score_that_is_no_number_is_not_kept(tmp_path: Path) -> None:
    cell = replace(make_cell("hiper", "ann", "moved", 0), scores={"distance": float("nan")})
    with pytest.raises(HiperError, match="distance of hiper, ann, moved as nan"):
        cell.save(tmp_path / "cell.json")
    assert not list(tmp_path.iterdir())
