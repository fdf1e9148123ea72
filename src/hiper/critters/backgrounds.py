"""The backgrounds: one function each, its details drawn from the view's seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Painter = Callable[[ImageDraw.ImageDraw, int, np.random.Generator], None]
HORIZON = 0.62


def draw_background(name: str, seed: int, side: int) -> Image.Image:
    """Draw the background `name` as an RGB square of `side` pixels."""
    image = Image.new("RGB", (side, side))
    PAINTERS[name](ImageDraw.Draw(image), side, np.random.default_rng(seed))
    return image


def _bands(
    draw: ImageDraw.ImageDraw, side: int, top: Colour, bottom: Colour, ground: Colour, horizon: float
) -> None:
    """Draw a sky in eight bands from `top` to `bottom`, and a ground of one colour."""
    for i in range(8):
        mix = tuple(round(a + (b - a) * i / 7) for a, b in zip(top, bottom, strict=True))
        draw.rectangle((0, i * horizon * side / 8, side, (i + 1) * horizon * side / 8), fill=mix)
    draw.rectangle((0, horizon * side, side, side), fill=ground)


def _hill(
    draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator, height: float, colour: Colour
) -> None:
    x = np.linspace(0, 1, 25)
    y = height + 0.035 * np.sin(2 * np.pi * (x * rng.uniform(0.7, 1.2) + rng.uniform()))
    points = [(float(a * side), float(b * side)) for a, b in zip(x, y, strict=True)]
    draw.polygon([*points, (side, side), (0, side)], fill=colour)


def _disc(draw: ImageDraw.ImageDraw, side: int, x: float, y: float, r: float, colour: Colour) -> None:
    draw.ellipse(((x - r) * side, (y - r) * side, (x + r) * side, (y + r) * side), fill=colour)


def _studio(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, side, side), fill=(226, 228, 234))
    draw.rectangle((0, 0.74 * side, side, side), fill=(206, 208, 216))


def _meadow(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    _bands(draw, side, (122, 190, 240), (206, 234, 250), (128, 196, 92), HORIZON)
    _hill(draw, side, rng, 0.52, (150, 208, 110))
    _hill(draw, side, rng, 0.66, (122, 190, 84))
    for _ in range(9):
        colour = [(250, 240, 120), (250, 150, 170), (255, 255, 255)][int(rng.integers(3))]
        _disc(draw, side, rng.uniform(0.04, 0.96), rng.uniform(0.76, 0.97), 0.018, colour)


def _beach(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    _bands(draw, side, (96, 196, 236), (190, 236, 246), (240, 216, 156), 0.5)
    draw.rectangle((0, 0.46 * side, side, 0.62 * side), fill=(52, 146, 196))
    draw.rectangle((0, 0.60 * side, side, 0.64 * side), fill=(238, 248, 250))
    _disc(draw, side, 0.15 if rng.integers(2) else 0.85, 0.15, 0.085, (255, 222, 92))


def _snow(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    _bands(draw, side, (164, 184, 214), (214, 224, 238), (246, 249, 252), HORIZON)
    for x in (rng.uniform(0.04, 0.14), rng.uniform(0.24, 0.34), rng.uniform(0.84, 0.96)):
        for step in range(3):
            top, half = 0.26 + 0.11 * step, 0.07 + 0.03 * step
            tree = [
                (x * side, top * side),
                ((x - half) * side, (top + 0.16) * side),
                ((x + half) * side, (top + 0.16) * side),
            ]
            draw.polygon(tree, fill=(62, 112, 96))
    _hill(draw, side, rng, 0.64, (246, 249, 252))
    for _ in range(10):
        _disc(draw, side, rng.uniform(), rng.uniform(0.02, 0.6), 0.012, (255, 255, 255))


def _city(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    _bands(draw, side, (244, 190, 150), (250, 226, 190), (112, 112, 122), 0.74)
    for i in range(6):
        top, left = rng.uniform(0.14, 0.42), i / 6
        colour = [(122, 132, 158), (150, 120, 128), (104, 118, 140)][int(rng.integers(3))]
        draw.rectangle((left * side, top * side, (left + 0.155) * side, 0.74 * side), fill=colour)
        for row in range(int((0.70 - top) / 0.09)):
            for column in range(2):
                wx, wy = left + 0.03 + 0.06 * column, top + 0.03 + 0.09 * row
                draw.rectangle(
                    (wx * side, wy * side, (wx + 0.035) * side, (wy + 0.045) * side), fill=(252, 232, 150)
                )
    draw.rectangle((0, 0.74 * side, side, 0.77 * side), fill=(178, 178, 186))


def _room(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, side, side), fill=(240, 206, 176))
    draw.rectangle((0, 0.70 * side, side, side), fill=(170, 112, 72))
    for y in (0.78, 0.87, 0.95):
        draw.rectangle((0, y * side, side, (y + 0.012) * side), fill=(142, 90, 56))
    left = 0.07 if rng.integers(2) else 0.65
    draw.rectangle((left * side, 0.1 * side, (left + 0.28) * side, 0.44 * side), fill=(252, 250, 244))
    for column in range(2):
        for row in range(2):
            wx, wy = left + 0.025 + 0.125 * column, 0.125 + 0.155 * row
            draw.rectangle(
                (wx * side, wy * side, (wx + 0.105) * side, (wy + 0.135) * side), fill=(150, 208, 240)
            )


def _forest(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    _bands(draw, side, (30, 70, 58), (74, 124, 84), (66, 84, 50), 0.72)
    for i in range(6):
        x, half = (i + rng.uniform(0.25, 0.75)) / 6, rng.uniform(0.022, 0.036)
        draw.rectangle(((x - half) * side, 0, (x + half) * side, 0.74 * side), fill=(88, 60, 44))
    for i in range(7):
        _disc(draw, side, i / 6 + rng.uniform(-0.04, 0.04), rng.uniform(0.0, 0.08), 0.12, (44, 96, 62))


PAINTERS: dict[str, Painter] = {
    "studio": _studio,
    "meadow": _meadow,
    "beach": _beach,
    "snow": _snow,
    "city": _city,
    "room": _room,
    "forest": _forest,
}
