"""Sweeps: which arms they give, what they find, and the figures they draw."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hiper.bench import build_report, build_sweep_report, choose_axes, mean, parse_sweeps, preset, sweep_arms
from hiper.bench.base import Metric
from hiper.bench.sweep_page import curve_table, page
from hiper.bench.sweep_report import SweepReport
from hiper.bench.sweeps import PRESETS
from hiper.errors import OptionError
from hiper.html import Axis, drawing, text
from tests import tiny
from tests.conftest import Cli
from tests.small_suite import COLOURS, EDITS, METRICS, NAME, installed

BASE = "hiper,batch=1,num_inference_steps=2,num_train_steps=2"
OVER = ("tail=1,5,8", "source_caption=right,vague")
SVG = "{http://www.w3.org/2000/svg}"

# arms


def test_each_value_is_the_base_with_one_option_changed() -> None:
    tail, caption = parse_sweeps(
        ["tail=1, 5", "source-caption=right,vague"], "hiper,num_train_steps=9,tail=3"
    )
    assert tail.option == "tail"
    assert tail.arms == {
        "1": "hiper,num_train_steps=9,tail=1",
        "5": "hiper,num_train_steps=9",
    }  # 5 is the default
    assert caption.arms == {
        "right": "hiper,num_train_steps=9,tail=3",
        "vague": "hiper,num_train_steps=9,tail=3,source_caption=vague",
    }


def test_a_run_has_every_arm_once_and_draws_the_floor_as_the_base_does() -> None:
    sweeps = parse_sweeps(["tail=3,5", "guidance_scale=2,4"], "hiper:paper,num_inference_steps=9")
    assert sweep_arms(sweeps, "hiper:paper,num_inference_steps=9", ceiling=True) == [
        "none:paper,num_inference_steps=9",
        "truth",
        "hiper:paper,num_inference_steps=9",
        "hiper:paper,num_inference_steps=9,tail=3",
        "hiper:paper,guidance_scale=2.0,num_inference_steps=9",
        "hiper:paper,guidance_scale=4.0,num_inference_steps=9",
    ]
    assert "truth" not in sweep_arms(sweeps, "hiper", ceiling=False)


@pytest.mark.slow
def test_the_papers_ablation_can_be_drawn() -> None:
    sweeps = parse_sweeps(preset("paper"), "hiper")
    assert [sweep.option for sweep in sweeps] == [text.partition("=")[0] for text in PRESETS["paper"]]
    assert list(sweeps[0].arms) == ["1", "2", "3", "5", "8", "10", "20", "40"]


@pytest.mark.parametrize(
    ("over", "base", "words"),
    [
        ([], "hiper", "nothing is swept over"),
        (["tail"], "hiper", "write option=value,value"),
        (["tail=,"], "hiper", "write option=value,value"),
        (["tail=1", "tail=2"], "hiper", "--over tail is given twice"),
        (["tial=1"], "hiper", "did you mean tail?"),
        (["tail=0"], "hiper", "tail is '0'; allowed are whole numbers from 1 to 64"),
        (["guidance_scale=1"], "none", "base is 'none', which is no method"),
    ],
)
def test_what_cannot_be_swept_is_refused(over: list[str], base: str, words: str) -> None:
    with pytest.raises(OptionError, match=re.escape(words)):
        sweep_arms(parse_sweeps(over, base), base, ceiling=False)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(OptionError, match=r"preset is 'papre'; allowed are paper \(did you mean paper\?\)"):
        preset("papre")


def test_the_axes_are_the_suites_usual_ones_or_those_asked_for() -> None:
    plain = Metric(text="", better="higher", unit="", low=None, high=None)
    critters = dict.fromkeys(("edit_success", "preservation", "colour_distance", "source_leak"), plain)
    axes = choose_axes(critters, None, None)
    assert (axes.success, axes.identity) == ("edit_success", "colour_distance")
    assert axes.shown == ["edit_success", "colour_distance", "source_leak"]
    assert choose_axes(critters, None, "preservation").identity == "preservation"
    assert choose_axes(dict.fromkeys(("clip_text", "clip_image"), plain), None, None).identity == "clip_image"
    with pytest.raises(OptionError, match=r"no metric 'distanze' \(did you mean distance\?\)"):
        choose_axes(METRICS, None, "distanze")
    with pytest.raises(OptionError, match=r"--success and --identity; .* distance, colour"):
        choose_axes(METRICS, None, "distance")


# shapes


@pytest.mark.parametrize("values", [(0.2, 0.9), (3.0, 3.0), (0.0, 0.0), (-1e-3, 2e-3), (12.0, 4711.0)])
def test_an_axis_holds_its_values_and_has_a_few_round_ticks(values: tuple[float, float]) -> None:
    axis = Axis.over(values, 300, 20, low=None, high=None)
    assert all(20 < axis.at(value) < 300 for value in values)
    assert axis.at(axis.low) == 300
    assert 3 <= len(axis.ticks()) <= 8
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks())
    steps = {f"{b - a:.3g}" for a, b in zip(axis.ticks(), axis.ticks()[1:], strict=False)}
    assert len(steps) == 1
    assert float(steps.pop()) / 10 ** torch.tensor(axis.ticks()[1] - axis.ticks()[0]).log10().floor() in (
        1,
        2,
        5,
    )


def test_an_axis_of_shares_ends_at_one() -> None:
    assert Axis.over([1.0, 1.0], 0, 100, low=0, high=1).high == 1


def test_words_are_escaped() -> None:
    tree = ET.fromstring(drawing(9, 9, [text(0, 0, '<script>"&')], '"<b>'))
    assert [each.text for each in tree.iter(f"{SVG}text")] == ['<script>"&']
    assert tree.get("aria-label") == '"<b>'


def test_a_mean_has_the_interval_of_its_subjects() -> None:
    few = mean({"ann": [(0.0,), (6.0,)], "ben": [(3.0,)]})
    apart = mean({str(s): [(6.0 * (s % 2),)] for s in range(10)})
    assert few is not None
    assert apart is not None
    assert (few.value, few.low, few.high, few.cells, few.subjects) == (3, None, None, 3, 2)
    half = 2.262  # t of 9 degrees of freedom; the standard error is (90 / 9 / 10)**.5
    assert [apart.value, apart.low, apart.high] == pytest.approx([3, 3 - half, 3 + half], abs=1e-3)
    assert mean({}) is None


# a whole sweep


@pytest.fixture(scope="module", autouse=True)
def _suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("installed")):
        yield


def words(model_folder: Path, out: Path, *more: str) -> list[str | Path]:
    over = [word for sweep in OVER for word in ("--over", sweep)]
    axes = ["--success", "colour", "--identity", "distance"]
    return ["sweep", NAME, "--backbone", model_folder, "--base", BASE, "--out", out, *over, *axes, *more]


@pytest.mark.slow
def test_a_sweep_draws_compares_and_goes_on(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = cli(*words(model_folder, out, "--limit", "1", "--json"))
    assert first.status == 0, first.err
    assert json.loads(first.out)["drawn"] == len(EDITS) * 6
    done = cli(*words(model_folder, out, "--json"))
    record = json.loads(done.out)
    assert (record["cells"], record["drawn"]) == (6 * 6, 6 * 6 - len(EDITS) * 6)
    assert [curve["option"] for curve in record["curves"]] == ["tail", "source_caption"]
    report = build_sweep_report(
        out, parse_sweeps(OVER, BASE), BASE, choose_axes(METRICS, "colour", "distance")
    )
    check_figures(report, out)
    check_files(report, out)


def check_figures(report: SweepReport, out: Path) -> None:
    """Against the figures of the ordinary report of the same folder."""
    expected = {row.arm: row.scores for row in build_report(out).rows}
    for curve in report.curves:
        assert (curve.subjects, curve.cells) == (len(COLOURS), len(COLOURS) * len(EDITS))
        for point in curve.points:
            distance = point.means["distance"]
            assert distance is not None
            assert distance.value == pytest.approx(expected[point.arm]["distance"].mean)
            assert (distance.subjects, distance.low) == (len(COLOURS), None)  # too few for an interval
    one, five, _ = report.curves[0].points
    assert (five.label, five.arm, five.differences) == ("5", report.base, {})
    compared = {
        (each.arm, each.metric): each.difference for each in build_report(out, report.base).comparisons
    }
    assert one.differences == {name: compared[one.arm, name] for name in METRICS}
    assert report.curves[0].ceiling is not None


def check_files(report: SweepReport, out: Path) -> None:
    names = {path.name for path in (out / "sweep").iterdir()}
    assert names == {"sweep.html", "sweep.json", "trade-off.svg", "tail.svg", "source-caption.svg"}
    whole = (out / "sweep" / "sweep.html").read_text()
    assert whole == page(report)
    assert "<script" not in whole
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", whole)
    assert whole.count("<svg") == 3
    figure = ET.parse(out / "sweep" / "tail.svg").getroot()
    labels = [each.text for each in figure.iter(f"{SVG}text")]
    assert all(
        labels.count(value) == len(METRICS) for value in ("tail", "1", "8", "prompt alone", "true answer")
    )
    assert len(list(figure.iter(f"{SVG}circle"))) == 3 * len(METRICS)
    rows = curve_table(report, report.curves[0])
    assert [row[0] for row in rows] == ["tail", "1", "5", "8", "base", "prompt alone", "true answer"]
    assert len({len(row) for row in rows}) == 1


@pytest.mark.slow
def test_mistakes_are_told_before_a_model_is_loaded(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli("sweep", NAME, "--out", out).refusal("nothing is swept over", "--preset paper")
    cli("sweep", NAME, "--out", out, "--over", "tail=1", "--preset", "paper").refusal("--over and --preset")
    cli("sweep", NAME, "--out", out, "--over", "tail=1").refusal("--success and --identity")
    cli("sweep", "critters", "--out", out, "--over", "tail=x").refusal("tail is 'x'")
    assert not out.exists()


@pytest.mark.slow
def test_a_preset_leaves_out_what_a_suite_cannot(cli: Cli, tmp_path: Path) -> None:
    tiny.picture().save(tmp_path / "rex.png")
    subject = (
        'name = "rex"\nimage = "rex.png"\ncaption = "a dog"\nedits = [{ name = "sits", caption = "sits" }]'
    )
    (tmp_path / "pets.toml").write_text(f"[[subject]]\n{subject}\n")
    refused = cli("sweep", tmp_path / "pets.toml", "--out", tmp_path / "run", "--preset", "paper")
    assert refused.status == 2
    assert "this suite knows no other captions, so source_caption is not swept over" in refused.err
    assert "this suite has none" in refused.err  # and without metrics there is no trade-off to draw
