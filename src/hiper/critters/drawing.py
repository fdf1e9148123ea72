"""Draw one animal: a skeleton per pose, a head per species, a coat per identity.

Coordinates: the unit square, x to the right, y down, the animal facing right; `Pen` maps them to pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from hiper.critters.world import COLOURS, Identity, Scene, View

Colour = tuple[int, int, int]
Points = NDArray[np.float64]
OUTLINE: Colour = (44, 36, 40)
GROUND = 0.84


@dataclass(frozen=True)
class Pose:
    """A skeleton: centres, angles in degrees (positive lifts the front), leg polylines far and near, tail root."""

    body: tuple[float, float]
    angle: float
    radii: tuple[float, float]
    head: tuple[float, float]
    far_legs: tuple[tuple[tuple[float, float], ...], ...]
    near_legs: tuple[tuple[tuple[float, float], ...], ...]
    tail: tuple[float, float]
    tail_angle: float
    haunch: tuple[float, float] | None = None
    asleep: bool = False


POSES: dict[str, Pose] = {
    "standing": Pose(
        body=(0.44, 0.60), angle=4, radii=(0.21, 0.135), head=(0.66, 0.42),
        far_legs=(((0.33, 0.64), (0.34, GROUND - 0.02)), ((0.58, 0.64), (0.60, GROUND - 0.02))),
        near_legs=(((0.29, 0.64), (0.28, GROUND)), ((0.53, 0.64), (0.53, GROUND))),
        tail=(0.25, 0.55), tail_angle=140,
    ),
    "sitting": Pose(
        body=(0.43, 0.61), angle=56, radii=(0.205, 0.145), head=(0.58, 0.36),
        far_legs=(((0.53, 0.60), (0.60, GROUND - 0.02)),),
        near_legs=(((0.49, 0.60), (0.53, GROUND)), ((0.36, 0.78), (0.47, GROUND))),
        tail=(0.28, 0.76), tail_angle=160, haunch=(0.36, 0.74),
    ),
    "sleeping": Pose(
        body=(0.42, 0.73), angle=0, radii=(0.24, 0.115), head=(0.68, 0.69),
        far_legs=(((0.52, 0.80), (0.64, GROUND)),),
        near_legs=(((0.46, 0.80), (0.58, GROUND + 0.01)), ((0.28, 0.80), (0.38, GROUND + 0.01))),
        tail=(0.20, 0.75), tail_angle=125, haunch=(0.29, 0.75), asleep=True,
    ),
    "jumping": Pose(
        body=(0.44, 0.47), angle=26, radii=(0.215, 0.125), head=(0.67, 0.29),
        far_legs=(((0.34, 0.53), (0.22, 0.66)), ((0.56, 0.46), (0.73, 0.54))),
        near_legs=(((0.32, 0.55), (0.26, 0.73)), ((0.53, 0.48), (0.68, 0.61))),
        tail=(0.25, 0.54), tail_angle=190,
    ),
}  # fmt: skip


class Pen:
    """Maps unit coordinates to pixels and draws outlined shapes, all of one view."""

    def __init__(self, view: View, side: int) -> None:
        self.side, self.view = side, view
        self.image = Image.new("RGB", (side, side))
        self.mask = Image.new("L", (side, side))
        self._colour, self._cover = ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask)
        self.line = 0.011

    def pixels(self, points: Points) -> list[tuple[float, float]]:
        """[n, 2] unit coordinates -> pixel pairs; the view's facing, size and place applied about (0.5, GROUND)."""
        x = (points[:, 0] - 0.5) * self.view.scale
        x = 0.5 + (-x if self.view.flip else x) + self.view.dx
        y = GROUND + (points[:, 1] - GROUND) * self.view.scale + self.view.dy
        return [(float(a), float(b)) for a, b in zip(x * self.side, y * self.side, strict=True)]

    def shape(self, points: Points, colour: Colour, *, outline: bool = True) -> None:
        """A filled polygon, its outline drawn outside the fill."""
        pixels = self.pixels(points)
        if outline:
            width = round(2 * self.line * self.side)
            closed = [*pixels, pixels[0], pixels[1]]
            self._colour.line(closed, fill=OUTLINE, width=width, joint="curve")
            self._cover.line(closed, fill=255, width=width, joint="curve")
        self._colour.polygon(pixels, fill=colour)
        self._cover.polygon(pixels, fill=255)

    def limb(self, path: Points, width: float, colour: Colour) -> None:
        """A rounded thick line along `path` [n, 2]; `width` in unit coordinates."""
        pixels = self.pixels(path)
        for grow, fill in ((2 * self.line, OUTLINE), (0.0, colour)):
            thick = (width + grow) * self.side * self.view.scale
            for draw, ink in ((self._colour, fill), (self._cover, 255)):
                draw.line(pixels, fill=ink, width=round(thick), joint="curve")
                for x, y in (pixels[0], pixels[-1]):
                    draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=ink)

    def curve(self, points: Points, width: float, colour: Colour = OUTLINE) -> None:
        """A thin line, for closed eyes, mouths and whiskers."""
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
    """Polygon [count, 2] of an ellipse turned by `angle` degrees (positive lifts its right end)."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return place(np.stack([rx * np.cos(turn), ry * np.sin(turn)], 1), cx, cy, angle)


def place(points: Points, cx: float, cy: float, angle: float) -> Points:
    """Turn local points [n, 2] by `angle` degrees and move them to (cx, cy)."""
    a = np.deg2rad(-angle)
    rotation = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    moved: Points = points @ rotation + np.array([cx, cy])
    return moved


def marks(identity: Identity, rx: float, ry: float, part: int) -> list[Points]:
    """The coat's marks on one body part, as local polygons; they turn with the part, so they survive a pose change."""
    rng = np.random.default_rng([identity.pattern_seed, part])
    if identity.pattern == "spotted":
        count = 7 if part == 0 else 4
        turn = rng.uniform(0, 2 * np.pi) + np.arange(count) * 2.4
        reach = np.sqrt((np.arange(count) + 0.6) / count) * 0.85
        size = rng.uniform(0.026, 0.042, count)
        return [ellipse(rx * r * np.cos(t), ry * r * np.sin(t), s, s * 0.9, 0, 16)
                for t, r, s in zip(turn, reach, size, strict=True)]  # fmt: skip
    if identity.pattern == "striped":
        count = 5 if part == 0 else 3
        start, wide = rng.uniform(-0.06, 0.06), rng.uniform(0.26, 0.36)
        centres = (np.arange(count) - (count - 1) / 2 + start) * 2 * rx / count
        half = wide * rx / count
        top, bottom = -1.5 * ry, ry * (0.45 if part == 0 else -0.35)
        bar = np.array([[-half, top], [half, top], [half * 0.3, bottom], [-half * 0.3, bottom]])
        return [bar + np.array([centre, 0.0]) for centre in centres]
    if identity.pattern == "patched":
        side = 1 if rng.integers(2) else -1
        cut = rng.uniform(-0.15, 0.25) * rx
        edge = [[side * (cut + rng.uniform(-0.12, 0.12) * rx), y * ry] for y in np.linspace(-1.3, 1.3, 7)]
        return [np.array([*edge, [side * 2 * rx, 1.3 * ry], [side * 2 * rx, -1.3 * ry]])]
    return []


@dataclass(frozen=True)
class Coat:
    """The colours of an identity as 8-bit sRGB."""

    primary: Colour
    secondary: Colour
    shade: Colour

    @classmethod
    def of(cls, identity: Identity) -> Coat:
        base = COLOURS[identity.primary]
        primary = tuple(int(np.clip(c + t, 0, 255)) for c, t in zip(base, identity.tint, strict=True))
        shade = tuple(int(c * 0.82) for c in primary)
        return cls(primary, COLOURS[identity.secondary], shade)  # type: ignore[arg-type]


def draw_animal(scene: Scene, side: int) -> Pen:
    """The animal of `scene` on an empty square of `side` pixels; `.image` is RGB, `.mask` its coverage."""
    from hiper.critters.heads import draw_head, draw_tail

    pen, who, pose = Pen(scene.view, side), scene.identity, POSES[scene.pose]
    coat = Coat.of(who)
    sturdy = {"elephant": 1.14, "bear": 1.1, "rabbit": 0.9}.get(scene.species, 1.0)
    thick = {"elephant": 0.095, "bear": 0.088, "rabbit": 0.062}.get(scene.species, 0.068)
    rx, ry = pose.radii[0] * who.body, pose.radii[1] * sturdy
    draw_tail(pen, scene, pose, coat)
    for leg in pose.far_legs:
        pen.limb(leg_path(leg, who, pose), thick, coat.shade)
    body = ellipse(*pose.body, rx, ry, pose.angle)
    pen.shape(body, coat.primary)
    pen.coat(body, [place(m, *pose.body, pose.angle) for m in marks(who, rx, ry, 0)], coat.secondary)
    if who.pattern in ("plain", "striped"):
        pen.coat(
            body,
            [place(ellipse(0.0, ry * 0.95, rx * 0.75, ry * 0.5), *pose.body, pose.angle)],
            coat.secondary,
        )
    if pose.haunch:
        pen.shape(ellipse(*pose.haunch, 0.085 * sturdy, 0.08 * sturdy), coat.primary)
    for leg in pose.near_legs:
        path = leg_path(leg, who, pose)
        pen.limb(path, thick, coat.primary)
        pen.shape(
            ellipse(path[-1, 0] + 0.012, path[-1, 1] + 0.004, thick * 0.62, thick * 0.42), coat.secondary
        )
    draw_head(pen, scene, pose, coat)
    return pen


def leg_path(leg: tuple[tuple[float, float], ...], who: Identity, pose: Pose) -> Points:
    """A leg's polyline [n, 2]; long legs only where the pose leaves them free, so that feet stay on the ground."""
    path = np.array(leg)
    if not pose.asleep and pose.haunch is None and pose.angle > 10:
        path[1:] = path[0] + (path[1:] - path[0]) * who.legs
    return path
