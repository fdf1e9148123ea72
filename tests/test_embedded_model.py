"""The weights in the package: plain diffusers runs them, captions steer them, and a tail carries an unseen animal."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import hiper
from hiper.analysis import run_demo
from hiper.analysis.demo import EDITS
from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.errors import ImageError
from hiper.inference import read_drawn
from hiper.metrics.colour_distance import cielab

WEIGHTS = Path(str(files("hiper"))) / "critters" / "weights"


def _draw(critters: Backbone, prompt: str, count: int = 4) -> list[Image.Image]:
    return critters.sample(
        critters.encode(prompt),
        [critters.encode("")],
        critters.sampling_settings(num_inference_steps=12, scheduler="ddim"),
        seeds=range(count),
    ).images


def _lab(pictures: list[Image.Image]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.stack([cielab(picture) for picture in pictures])


def test_the_weights_are_fp16_safetensors_of_at_most_32_mb() -> None:
    found = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in found) <= 32 * 2**20
    assert {path.suffix for path in found} <= {".safetensors", ".json", ".md"}
    assert (WEIGHTS / "README.md").is_file()


@pytest.mark.slow
def test_plain_diffusers_loads_and_runs_the_folder_and_agrees(critters: Backbone) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe(
        "a sitting cat on the beach",
        num_inference_steps=12,
        guidance_scale=critters.default_guidance_scale,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    ours = _draw(critters, "a sitting cat on the beach", 1)[0]
    difference = np.abs(np.asarray(picture).astype(int) - np.asarray(ours).astype(int))
    assert difference.max() <= 1


@pytest.mark.slow
def test_captions_steer_style_and_background(critters: Backbone) -> None:
    sketch, drawing = (
        _lab(_draw(critters, "a pencil sketch of a sitting dog")),
        _lab(_draw(critters, "a sitting dog in a meadow")),
    )
    assert np.abs(sketch[..., 1:]).mean() < 0.35 * np.abs(drawing[..., 1:]).mean()
    corner = np.s_[:, -6:, :6]
    snow, forest = (
        _lab(_draw(critters, f"a sitting dog in the {place}"))[corner] for place in ("snow", "forest")
    )
    assert snow[..., 0].mean() > 85 > 60 > forest[..., 0].mean()
    assert drawing[corner][..., 1].mean() < -20, "a meadow is green"


@pytest.mark.slow
def test_the_demo_shows_that_a_tail_carries_an_unseen_animal(tmp_path: Path) -> None:
    stages: list[str] = []
    report = run_demo(
        tmp_path, seed=0, overwrite=False, progress=lambda what, _done, _all: stages.append(what)
    )
    assert read_drawn(tmp_path / "motion.png").settings.batch == (0,)
    with pytest.raises(ImageError, match="hiper demo --seed"):
        read_drawn(report.sheet)
    with Image.open(report.sheet) as sheet:
        assert sheet.width > 5 * 200
        assert sheet.height > len(EDITS) * 200
    reports = [report]
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        reports.append(run_demo(tmp_path / str(seed), seed=seed, overwrite=False, progress=lambda *_: None))
    floor, mine, ceiling = (
        sum(float(each.figures[f"mean, {name}"]) for each in reports)
        for name in ("prompt alone", "edit", "true answer through the VAE")
    )
    assert ceiling < mine < 0.8 * floor  # of several animals: without a tail, one may be hit by chance
    assert {"fit", "edit"} == set(stages)
    assert Artifact.load(tmp_path / "tail.safetensors").caption == report.figures["caption"]
    with pytest.raises(hiper.UserError, match="overwrite"):
        run_demo(tmp_path, seed=0, overwrite=False, progress=lambda *_: None)
