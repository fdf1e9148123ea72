"""Photographs and strange words are noted on the embedded model; pictures of its world never are."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

import hiper
from hiper.analysis import demo_scene
from hiper.critters import bare_caption, draw_scene, full_caption, picture_notes, render, word_notes, world
from hiper.critters.strangers import THRESHOLD, likeness
from hiper.errors import HiperWarning
from tests.conftest import Cli

STRANGE = "this does not look like the cartoon animals"


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def fractal(seed: int, exponent: float) -> NDArray[np.float64]:
    """Grey levels with the power spectrum of photographs (Field, 1987)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    frequency[0, 0] = 1
    levels: NDArray[np.float64] = np.fft.ifft2(
        np.fft.fft2(rng.normal(size=(256, 256))) / frequency**exponent
    ).real
    levels -= levels.mean()
    return levels / float(levels.std())


def photograph(seed: int) -> Image.Image:
    """Correlated channels of fractal noise, and a shaded ball in front."""
    shared = fractal(seed, 1.3)
    levels = np.stack([128 + 45 * (shared + 0.4 * fractal(seed + i, 1.3)) for i in (100, 200, 300)], axis=-1)
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    height = np.sqrt(np.clip(0.4 - x**2 - y**2, 0, None))
    ball = np.stack([40 + 300 * height * (0.6 + 0.4 * x), 30 + 180 * height, 90 * height], axis=-1)
    return Image.fromarray(np.where(height[..., None] > 0, ball, levels).clip(0, 255).astype(np.uint8))


def gradient() -> Image.Image:
    ramp = np.linspace(0, 255, 128)
    levels = np.stack(
        [np.tile(ramp, (128, 1)), np.tile(ramp[:, None], (1, 128)), np.full((128, 128), 90)], -1
    )
    return Image.fromarray(levels.astype(np.uint8))


def white_noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))


@pytest.mark.slow
def test_no_picture_of_the_world_is_strange() -> None:
    """Every background in every style."""
    for i, (background, style) in enumerate(itertools.product(world.BACKGROUNDS, world.STYLES)):
        picture = render(draw_scene(500 + i).edited(background=background, style=style))
        assert likeness(picture) > THRESHOLD + 6, (background, style)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda p: jpeg(p, 50),
        lambda p: jpeg(p, 20),
        lambda p: noisy(p, 5),
        lambda p: noisy(p, 15),
        lambda p: p.resize((96, 96)),
        lambda p: p.resize((640, 640), Image.Resampling.BICUBIC),
        lambda p: jpeg(noisy(p.resize((256, 256), Image.Resampling.BICUBIC), 15), 40),
        lambda p: p.filter(ImageFilter.GaussianBlur(0.8)),
    ],
)
def test_no_copy_of_a_picture_of_the_world_is_strange(change: object) -> None:
    assert callable(change)
    for i, (background, style) in enumerate(
        zip(world.BACKGROUNDS, itertools.cycle(world.STYLES), strict=False)
    ):
        picture = change(render(draw_scene(900 + i).edited(background=background, style=style)))
        assert likeness(picture) > THRESHOLD, (background, style)


@pytest.mark.parametrize("picture", [photograph(0), photograph(1), gradient(), white_noise()])
def test_what_looks_like_a_photograph_is_strange(picture: Image.Image) -> None:
    assert picture_notes(picture, "critters")
    assert not picture_notes(picture, "some/model")


def test_words_outside_the_grammar_are_named() -> None:
    (note,) = word_notes("A corgi on an armchair, in 2 rooms; the dog's", "caption", "critters")
    assert "(corgi, on, armchair, rooms)" in note or "(corgi, armchair, rooms)" in note
    assert not word_notes("A corgi", "caption", "some/model")
    for seed in range(20):
        for caption in (bare_caption(draw_scene(seed)), full_caption(draw_scene(seed))):
            assert not word_notes(caption, "caption", "critters")


# where it is noted


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "corgi.png"
    photograph(0).save(path)
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the fit did not lower the loss")
def test_python_tells_a_photograph_and_strange_words(critters: Any, photo: Path) -> None:
    subject = hiper.Subject.open(photo, caption="a corgi")
    with pytest.warns(HiperWarning) as caught:
        artifact = hiper.fit(critters, subject, num_train_steps=1)
    notes = [str(each.message) for each in caught]
    assert any(STRANGE in text and "--backbone" in text for text in notes)
    assert any("(corgi)" in text for text in notes)
    with pytest.warns(HiperWarning, match=r"the prompt has words .*\(armchair\)"):
        result = hiper.edit(critters, artifact, "a dog in the armchair", num_inference_steps=1)
    assert any("armchair" in note for note in result.notes)


@pytest.mark.slow
def test_the_command_line_and_a_batch_tell_it(cli: Cli, tmp_path: Path, photo: Path) -> None:
    done = cli(
        "fit", photo, "--caption", "auto", "--out", tmp_path / "x.safetensors", "-o", "num_train_steps=1"
    )
    assert done.status == 0
    assert STRANGE in done.err
    picture = tmp_path / "dog.png"
    render(demo_scene(0)).save(picture)
    good = cli(
        "fit", picture, "--caption", "auto", "--out", tmp_path / "y.safetensors", "-o", "num_train_steps=1"
    )
    assert STRANGE not in good.err
    (tmp_path / "jobs.csv").write_text(
        f"image;caption;options.num_train_steps\n{photo};a corgi;1\n{picture};a dog;1\n"
    )
    done = cli("batch", tmp_path / "jobs.csv", "--out", tmp_path / "out", "--sentence", "a cat")
    assert done.status == 0
    assert f"corgi: {STRANGE}" in done.err
    assert f"dog: {STRANGE}" not in done.err
    assert STRANGE in (tmp_path / "out" / "summary.html").read_text()
