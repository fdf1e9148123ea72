"""Outlined shapes in the unit square, x to the right, y down, the animal facing right; `Canvas` maps them to pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from hiper.critters.world import View

Colour = tuple[int, int, int]
Points = NDArray[np.float64]
OUTLINE: Colour = (44, 36, 40)
GROUND = 0.84
"""Height of the ground, y in the unit square."""


class Canvas:
    """Maps unit coordinates to pixels and draws outlined shapes, all of one view."""

    def __init__(self, view: View, side: int) -> None:
        self.side, self.view = side, view
        self.image = Image.new("RGB", (side, side))
        self.mask = Image.new("L", (side, side))
        self._colour, self._cover = ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask)
        self.line = 0.011

    def pixels(self, points: Points) -> list[tuple[float, float]]:
        """Map unit coordinates [n, 2] to pixels; the view's facing, size and place are applied about (0.5, GROUND)."""
        x = (points[:, 0] - 0.5) * self.view.scale
        x = 0.5 + (-x if self.view.flip else x) + self.view.dx
        y = GROUND + (points[:, 1] - GROUND) * self.view.scale + self.view.dy
        return [(float(a), float(b)) for a, b in zip(x * self.side, y * self.side, strict=True)]

    def shape(self, points: Points, colour: Colour, *, outline: bool = True) -> None:
        """Draw a filled polygon, its outline outside the fill."""
        pixels = self.pixels(points)
        if outline:
            width = round(2 * self.line * self.side)
            closed = [*pixels, pixels[0], pixels[1]]
            self._colour.line(closed, fill=OUTLINE, width=width, joint="curve")
            self._cover.line(closed, fill=255, width=width, joint="curve")
        self._colour.polygon(pixels, fill=colour)
        self._cover.polygon(pixels, fill=255)

    def limb(self, path: Points, width: float, colour: Colour) -> None:
        """Draw a rounded thick line along `path` [n, 2]; `width` in unit coordinates."""
        pixels = self.pixels(path)
        for grow, fill in ((2 * self.line, OUTLINE), (0.0, colour)):
            thick = (width + grow) * self.side * self.view.scale
            for draw, ink in ((self._colour, fill), (self._cover, 255)):
                draw.line(pixels, fill=ink, width=round(thick), joint="curve")
                for x, y in (pixels[0], pixels[-1]):
                    draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=ink)

    def curve(self, points: Points, width: float, colour: Colour = OUTLINE) -> None:
        """Draw a thin line, for closed eyes, mouths and whiskers."""
        self._colour.line(
            self.pixels(points), fill=colour, width=max(1, round(width * self.side)), joint="curve"
        )

    def coat(self, region: Points, marks: list[Points], colour: Colour) -> None:
        """Paint `marks` (polygons) in `colour`, but only inside `region`."""
        inside, pattern = Image.new("L", (self.side, self.side)), Image.new("L", (self.side, self.side))
        ImageDraw.Draw(inside).polygon(self.pixels(region), fill=255)
        draw = ImageDraw.Draw(pattern)
        for mark in marks:
            draw.polygon(self.pixels(mark), fill=255)
        self.image.paste(colour, (0, 0), ImageChops.multiply(inside, pattern))


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, count: int = 40) -> Points:
    """Return the polygon [count, 2] of an ellipse turned by `angle` degrees (positive lifts its right end)."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return place(np.stack([rx * np.cos(turn), ry * np.sin(turn)], 1), cx, cy, angle)


def place(points: Points, cx: float, cy: float, angle: float) -> Points:
    """Turn local points [n, 2] by `angle` degrees and move them to (cx, cy)."""
    a = np.deg2rad(-angle)
    rotation = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    moved: Points = points @ rotation + np.array([cx, cy])
    return moved
