"""The page of a run: complete, readable with neither network nor script, and no place for a stranger's code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import hiper
from hiper.analysis import RunReport, Sentence, page
from hiper.artifacts import Artifact
from hiper.backbones.sd import SdBackbone
from hiper.html import loss_curve
from hiper.html.loss_curve import BOTTOM, LEFT, RIGHT, TOP
from hiper.training import ProgressEvent
from tests import tiny
from tests.conftest import Cli

EVIL = '"><script>document.title="owned"</script><img src=http://e.vil/x onerror="document.title=1">\' & </title>'


@pytest.fixture(scope="module")
def hostile(sd1: SdBackbone, artifact: Artifact) -> RunReport:
    result = hiper.edit(sd1, artifact, "a dog", seeds=[1], num_inference_steps=1)
    evil = replace(result, prompt=EVIL, settings=replace(result.settings, scheduler=EVIL))
    return RunReport(
        artifact=replace(
            *(artifact,),
            caption=EVIL,
            method=EVIL,
            backbone=EVIL,
            options={EVIL: EVIL},
            versions={EVIL: EVIL},
            created=EVIL,
            thumbnail=f"data:image/jpeg;base64,/9j/{EVIL}",
        ),
        command=f"hiper run {EVIL}",
        notes=[EVIL],
        source=None,
        sentences=[Sentence(results=[evil], grid={0.8: result.images}, grid_seeds=[1])],
        loss_history=[],
        study=EVIL,
    )


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_no_text_of_a_stranger_becomes_part_of_the_page(hostile: RunReport) -> None:
    text = page(hostile)
    elements = Elements(text).found
    assert {tag for tag, _ in elements} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "pre", "ul", "li"),
        *("table", "tr", "th", "td", "figure", "figcaption", "img", "br"),
    }
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/jpeg;base64,")
            assert attributes["alt"]
    assert text.count("<img") == 2, "the picture and its place in the grid; no thumbnail"


def test_an_own_thumbnail_is_shown_where_the_picture_is_not_at_hand(
    hostile: RunReport, artifact: Artifact
) -> None:
    assert artifact.thumbnail in page(replace(hostile, artifact=artifact))
    with_source = replace(hostile, artifact=artifact, source=tiny.picture())
    assert artifact.thumbnail not in page(with_source)


def test_the_curve_goes_through_the_losses() -> None:
    """Checked by turning the points back into steps and losses."""
    losses = [0.5, 0.3, 0.45, 0.1, 0.2, 0.15]
    records = [
        ProgressEvent(step=10 * i, steps=60, loss=loss, seconds=1.0) for i, loss in enumerate(losses, start=1)
    ]
    _frame, raw, smooth = re.findall(r'<polyline points="([^"]+)"', loss_curve(records))
    points = [tuple(map(float, point.split(","))) for point in raw.split()]
    across, down = RIGHT - LEFT, BOTTOM - TOP
    for (x, y), record in zip(points, records, strict=True):
        assert 10 + (x - LEFT) / across * 50 == pytest.approx(record.step, abs=0.1)
        assert 0.5 - (y - TOP) / down * 0.4 == pytest.approx(record.loss, abs=0.001)
    middle = [float(point.split(",")[1]) for point in smooth.split()][2]
    assert 0.5 - (middle - TOP) / down * 0.4 == pytest.approx((0.3 + 0.45 + 0.1) / 3, abs=0.001)


def test_a_curve_without_slope_and_one_without_numbers(hostile: RunReport) -> None:
    def loss_history(*losses: float) -> list[ProgressEvent]:
        return [ProgressEvent(step=i, steps=9, loss=x, seconds=0) for i, x in enumerate(losses, start=1)]

    assert "nan" not in loss_curve(loss_history(0.5, 0.5, 0.5))
    assert "nan" not in page(replace(hostile, loss_history=loss_history(0.5, float("nan"), 0.4)))
    assert "earlier run" in page(replace(hostile, loss_history=loss_history(float("inf"), float("nan"), 0.4)))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def shown(browser: Browser, path: Path, picture: Path, *, script: bool) -> str:
    """Open a page, check that all pictures are there and nothing else was asked for, and return its text."""
    context = browser.new_context(java_script_enabled=script, offline=True)
    view = context.new_page()
    asked: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    view.goto(path.as_uri())
    widths = view.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert widths
    assert all(widths)
    assert [url for url in asked if not url.startswith("data:image/jpeg")] == [path.as_uri()]
    assert view.locator("h1").is_visible()
    view.screenshot(path=picture, full_page=True)
    text = view.inner_text("body")
    assert view.title() != "owned"
    context.close()
    return text


@pytest.mark.slow
def test_a_run_is_read_without_network_and_script(
    cli: Cli, tmp_path: Path, model_folder: Path, dog: Path, chromium: Browser
) -> None:
    report = tmp_path / "page.html"
    arguments = (
        *("--caption", "a standing dog", "--backbone", model_folder, "-o", "num_train_steps=30"),
        *("--num-inference-steps", "2"),
    )
    prompts = ("a sitting dog", "a <b>blue</b> cat")
    command = ("run", dog, *prompts, *arguments, "--images", "4", "--out", tmp_path / "o", "--report", report)
    done = cli(*command, "--json")
    assert done.status == 0, done
    assert json.loads(done.out)["report"] == str(report)
    text = shown(chromium, report, tmp_path / "page.png", script=False)
    for words in (*prompts, "Learnt from", "seed 3", "Strength against seed", "step 30", "Attention"):
        assert words in text, words
    assert f"hiper run {dog} 'a sitting dog'" in text
    assert "--report" in text
    elements = Elements(report.read_text()).found
    assert sum(tag == "polyline" for tag, _ in elements) == 3
    grid = [attributes["alt"] for tag, attributes in elements if tag == "img"]
    for strength in ("0", "0.5", "0.8", "1"):
        assert [alt for alt in grid if alt == f"strength {strength}, seed 2"], strength
    again = cli(*command, "--overwrite")
    assert again.out.splitlines()[-1] == str(report)
    assert "earlier run" in report.read_text()
    cli(*command, "--quiet").refusal("page.html" if not (tmp_path / "o").exists() else "exists")


@pytest.mark.slow
def test_edits_have_a_page_as_well(cli: Cli, tmp_path: Path, tail: Path, model_folder: Path) -> None:
    report = tmp_path / "page.html"
    done = cli(
        "edit",
        tail,
        "a dog",
        "--num-inference-steps",
        "1",
        "--out",
        tmp_path,
        "--report",
        report,
        "--strength",
        "0.3",
    )
    assert done.status == 0, done
    text = report.read_text()
    assert Artifact.load(tail).thumbnail in text
    assert "strength 0.3, seed 0" in text
    missing = cli("edit", tail, "a dog", "--out", tmp_path / "new", "--report", tmp_path / "no" / "page.html")
    missing.refusal("no folder")
    assert not list((tmp_path / "new").rglob("*.png"))


@pytest.mark.slow
def test_a_strangers_code_does_not_run(tmp_path: Path, hostile: RunReport, chromium: Browser) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(hostile))
    assert "<script>" in shown(chromium, path, tmp_path / "page.png", script=True), "as text"
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.height > 300
