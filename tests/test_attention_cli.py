"""`hiper attention` on a tiny real model: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from hiper.artifacts import Artifact
from tests import tiny
from tests.conftest import Cli

pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower the loss")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "dog.png"
    tiny.picture().save(path)
    Image.new("L", (64, 64), 255).save(path.with_name("mask.png"))
    return path


@pytest.mark.slow
def test_a_drawing_becomes_a_page_and_a_record(cli: Cli, tail: Path, tmp_path: Path) -> None:
    out = tmp_path / "seen"
    done = cli(
        "attention", tail, "--prompt", "a dog on the grass", "--num-inference-steps", "3", "--out", out
    )
    assert done.status == 0, done.err
    assert [line.split("  ")[0] for line in done.out.splitlines()[1:6]] == [
        "start mark",
        "words",
        "end mark",
        "padding",
        "learnt tokens",
    ]
    record = json.loads((out / "attention.json").read_text())
    assert record["prompt"] == "a dog on the grass"
    assert record["settings"]["num_inference_steps"] == 3
    assert len(record["tokens"][0]["map"]) == 16
    assert "a dog on the grass" in (out / "attention.html").read_text()
    again = cli("attention", tail, "--num-inference-steps", "3", "--out", out)
    again.refusal("attention.html", "exists")


@pytest.mark.slow
def test_a_picture_is_read_with_its_mask(cli: Cli, tail: Path, picture: Path, tmp_path: Path) -> None:
    mask = picture.with_name("mask.png")
    done = cli("attention", tail, "--picture", picture, "--mask", mask, "--out", tmp_path / "seen", "--json")
    assert done.status == 0, done.err
    record = json.loads(done.out)
    assert (record["over"], record["subject_area"]) == ("picture", 1)
    assert record["prompt"] == Artifact.load(tail).caption
    assert record["groups"]["learnt"]["tail"]["on_subject"] == pytest.approx(1)
    assert "map" not in record["tokens"][0]
    assert [Path(path).name for path in record["files"]] == ["attention.html", "attention.json"]


def test_mistakes_are_told_before_a_model_is_loaded(
    cli: Cli, tail: Path, picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "seen"
    cli("attention", tail, "--mask", picture, "--out", out).refusal("--mask", "--picture")
    cli("attention", tail, "--picture", picture, "--num-inference-steps", "3", "--out", out).refusal(
        "--num-inference-steps", "drawn"
    )
    cli("attention", picture, "--out", out).refusal("dog.png")
    assert not out.exists()
