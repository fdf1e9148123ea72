"""A caption for a picture of the world, by the attribute reader."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from hiper.critters.captions import bare_caption
from hiper.critters.reader import load_reader
from hiper.critters.world import draw_scene


def describe(picture: Image.Image) -> str:
    """Return the bare caption of what the reader finds; of a picture from elsewhere it is no more than a guess."""
    seen = load_reader("caption").read([picture])[0].values
    return bare_caption(replace(draw_scene(0), **seen))  # type: ignore[arg-type]  # a caption names no identity
