"""The picture that an edit starts from: its latents, and the region outside which no pixel changes."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from hiper.artifacts import EditResult, GivenPicture
from hiper.backbones import Backbone
from hiper.errors import OptionError
from hiper.images import open_image, open_mask, pixels_sha256
from hiper.seeds import generator

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""
Picture = Image.Image | str | Path
Region = Image.Image | str | Path | Box


class EditStart(TypedDict):
    """What an edit starts from, as `edit` takes it."""

    source: Picture | EditedPicture | None
    region: Region | None
    into: Picture | None
    into_caption: str


SURROUNDINGS = 1.5
"""Sides of the crop that the model draws, in those of the region's bounding box."""
FEATHER = 1 / 64
"""Standard deviation of the seam's blur, in the longer side of the crop."""
LARGEST_FEATHER = 1 / 8
"""Likewise, in the shorter side of the region, whose middle is to change wholly."""


@final
@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where in a picture a drawing belongs.

    Attributes:
        picture: The whole picture, RGB.
        mask: Mode L, of the picture's size, 0 where no pixel changes.
        box: The part of the picture that is drawn.
    """

    picture: Image.Image
    mask: Image.Image
    box: Box

    def latent_mask(self, latents: Tensor) -> Tensor:
        """[1, 1, h, w] for latents [1, c, h, w]: 1 where any pixel of a latent may change, else 0."""
        marked = torch.from_numpy(np.asarray(self.mask.crop(self.box)) > 0)[None, None].float()
        return F.adaptive_max_pool2d(marked, latents.shape[2:]).to(latents.device)

    def put_back(self, drawing: Image.Image) -> Image.Image:
        """Return the whole picture; what lies outside the mask is the picture's own, and the seam is blurred."""
        left, top, right, bottom = self.box
        low_x, low_y, high_x, high_y = self.mask.getbbox() or self.box
        widest = LARGEST_FEATHER * min(high_x - low_x, high_y - low_y)
        feather = min(FEATHER * max(right - left, bottom - top), widest)
        blurred = self.mask.filter(ImageFilter.GaussianBlur(feather))
        seam = ImageChops.darker(self.mask, blurred)
        return Image.composite(self._pasted(drawing, self.picture), self.picture, seam)

    def put_back_mask(self, free: Image.Image) -> Image.Image:
        """Return, for the whole picture, how free the drawing was to change: mode L, 0 outside the mask."""
        return ImageChops.darker(self.mask, self._pasted(free, Image.new("L", self.picture.size)))

    def _pasted(self, drawing: Image.Image, whole: Image.Image) -> Image.Image:
        left, top, right, bottom = self.box
        pasted = whole.copy()
        pasted.paste(drawing.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
        return pasted


@final
@dataclass(frozen=True, kw_only=True)
class EditedPicture:
    """What an edit starts from.

    Attributes:
        latents: [1, c, h, w], float32, on the model's device.
        placement: Where the drawing belongs; None where it is the whole result.
        sha256: Of the subject's own picture, as `Subject.sha256`; "" for the one that a file holds, and for another.
        given: What of it was named rather than found in the file.
    """

    latents: Tensor
    placement: Placement | None = None
    sha256: str = ""
    given: tuple[GivenPicture, ...] = ()

    def put_back(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """Return the result for each of the images that the model drew."""
        return [image if self.placement is None else self.placement.put_back(image) for image in images]

    def put_back_masks(self, masks: Tensor, size: tuple[int, int]) -> tuple[Image.Image, ...]:
        """Return how free each picture was to change: mode L, of the size of the results.

        Args:
            masks: [batch, 1, h, w] in 0..1.
            size: Of the images that the model drew.
        """
        levels = (masks[:, 0] * 255).round().to("cpu", torch.uint8).numpy()
        free = [Image.fromarray(level).resize(size, Image.Resampling.BILINEAR) for level in levels]
        return tuple(mask if self.placement is None else self.placement.put_back_mask(mask) for mask in free)


def masks_of(result: EditResult) -> Sequence[Image.Image]:
    """Return where each picture of a result was free to change: everywhere, if nothing of a source was kept."""
    return result.masks or [Image.new("L", image.size, 255) for image in result.images]


def overlaid(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the picture with a red veil where the mask (mode L, of its size) is white."""
    veil = mask.point(lambda level: level // 2)
    return Image.composite(Image.new("RGB", picture.size, "red"), picture, veil)


def held_picture(backbone: Backbone, latents: Tensor, region: Region | None = None) -> EditedPicture:
    """Edit the picture that a file holds as latents [1, c, h, w]; a region has the size in which they decode."""
    latents = latents.to(backbone.device, torch.float32)
    if region is None:
        return EditedPicture(latents=latents)
    picture = backbone.decode(latents)[0]
    placement = Placement(picture=picture, mask=region_mask(region, picture.size), box=(0, 0, *picture.size))
    return EditedPicture(latents=latents, placement=placement)


def given_picture(backbone: Backbone, picture: Picture, region: Region | None) -> EditedPicture:
    """Edit a picture of any size: all of it, at the model's native area, or a crop around a region.

    Raises:
        ImageError: The picture or the region cannot be read, or the region is empty.
        OptionError: The region has another size, or is a box that is not inside.
    """
    whole = open_image(picture).image
    placement, box = None, (0, 0, *whole.size)
    if region is not None:
        mask = region_mask(region, whole.size)
        box = _surroundings(mask, backbone.resolution)
        placement = Placement(picture=whole, mask=mask, box=box)
    pixels = whole.resize(_drawn_size(box, backbone), Image.Resampling.LANCZOS, box=box)
    latents = backbone.latents(pixels, generator(0))
    return EditedPicture(latents=latents, placement=placement, sha256=pixels_sha256(whole))


def parse_box(text: str) -> Box | None:
    """Return the box that "left,top,right,bottom" names; None for a text of more than numbers, such as a file's name.

    Raises:
        OptionError: There are other numbers than four whole ones.
    """
    numbers = text.split(",")
    if len(numbers) == 4 and all(number.strip().isdecimal() for number in numbers):
        left, top, right, bottom = map(int, numbers)
        return left, top, right, bottom
    if set(text) <= set("0123456789-., "):
        raise OptionError(f"region is {text[:80]!r}; write a box as left,top,right,bottom in whole pixels")
    return None


def region_mask(region: Region, size: tuple[int, int]) -> Image.Image:
    """Return a region of a picture of `size` as a mask, mode L; errors are those of `given_picture`."""
    if not isinstance(region, (Image.Image, str, Path)):
        try:
            left, top, right, bottom = map(operator.index, region)
        except (TypeError, ValueError):
            raise OptionError(
                f"region is {' '.join(repr(region).split())[:80]}; allowed are a mask, or the box left, top, right,"
                " bottom in whole pixels"
            ) from None
        if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
            raise OptionError(
                f"region is the box {left},{top},{right},{bottom}; allowed are left < right and top < bottom within"
                f" the picture's {size[0]} x {size[1]} pixels"
            )
        mask = Image.new("L", size)
        mask.paste(255, (left, top, right, bottom))
        return mask
    mask = open_mask(region).image
    if mask.size != size:
        raise OptionError(
            f"the region has {mask.width} x {mask.height} pixels, the picture {size[0]} x {size[1]}; give both the"
            " same size, and as source the picture that the region was made for"
        )
    return mask


def _surroundings(mask: Image.Image, least: int) -> Box:
    """Return a square around the mask with some of its surroundings, at least `least` pixels a side.

    Where the picture has no room for it, its edges end it.
    """
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    side = max(least, math.ceil(SURROUNDINGS * max(right - left, bottom - top)))
    low_x, high_x = _interval((left + right) // 2, side, mask.width)
    low_y, high_y = _interval((top + bottom) // 2, side, mask.height)
    return low_x, low_y, high_x, high_y


def _interval(centre: int, side: int, whole: int) -> tuple[int, int]:
    side = min(side, whole)
    low = min(max(0, centre - side // 2), whole - side)
    return low, low + side


def _drawn_size(box: Box, backbone: Backbone) -> tuple[int, int]:
    """Return width and height of the box's shape in the model's native area, in multiples of what it draws."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = backbone.resolution / math.sqrt(width * height)
    multiple = backbone.size_multiple
    drawn = [max(multiple, round(side * scale / multiple) * multiple) for side in (width, height)]
    return drawn[0], drawn[1]
