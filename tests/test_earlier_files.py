"""Files that the release before wrote: they load, and draw what they drew.

`tests/earlier` was made on the embedded model by revision 249ca67: a fit of five steps, a picture of three drawn with
it, and a fit of method sdedit. The model drew 64 pixels then, from the latents that it has today.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hiper
from hiper.backbones import Backbone
from hiper.errors import HiperWarning
from hiper.inference import read_drawn, rerun

EARLIER = Path(__file__).parent / "earlier"
(PICTURE,) = EARLIER.glob("*.png")


def test_an_artifact_draws_what_it_drew(critters: Backbone) -> None:
    settings = read_drawn(PICTURE).settings
    artifact = hiper.Artifact.load(EARLIER / "tail.safetensors")
    assert artifact.source is None
    with pytest.warns(HiperWarning, match="no latents"):
        drawn = hiper.edit(
            critters,
            artifact,
            settings.prompt,
            seeds=[settings.seed],
            num_inference_steps=settings.num_inference_steps,
        ).images[0]
    earlier = np.asarray(Image.open(PICTURE).convert("RGB"), np.int16)
    assert np.abs(np.asarray(drawn.reduce(2), np.int16) - earlier).mean() < 6


def test_a_picture_is_drawn_again(critters: Backbone) -> None:
    drawn = read_drawn(PICTURE)
    assert drawn.settings.keep == 0
    assert drawn.artifact is not None
    with pytest.warns(HiperWarning, match="64 x 64"):  # the size it had, by latents of a quarter of the area
        assert rerun(drawn, critters, drawn.artifact).image.size == (64, 64)


def test_another_method_s_file_draws(critters: Backbone) -> None:
    artifact = hiper.Artifact.load(EARLIER / "sdedit.safetensors")
    assert len(hiper.edit(critters, artifact, artifact.caption, steps=3).images) == 1
