"""What an animal is drawn from: a skeleton per pose and a coat per identity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hiper.critters.canvas import GROUND, Colour, Points, ellipse
from hiper.critters.world import COLOURS, Identity


@dataclass(frozen=True)
class Pose:
    """A skeleton in the unit square, y down.

    Attributes:
        body: Centre.
        angle: Of the body in degrees; positive lifts the front.
        radii: Half the body's length and height.
        head: Centre.
        far_legs: Polylines, drawn behind the body.
        near_legs: Polylines, drawn in front of it.
        tail: Its root.
        tail_angle: In degrees.
        haunch: Centre; None where the pose shows none.
        asleep: Whether the eyes are closed.
    """

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


def marks(identity: Identity, rx: float, ry: float, part: int) -> list[Points]:
    """Return the coat's marks on one body part, as polygons that turn with the part, so they survive a pose change.

    Args:
        identity: Whose coat it is.
        rx: Half the part's length.
        ry: Half its height.
        part: 0 for the body, 1 for the head.
    """
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
        """Return the coat of an identity; its shade is 18 % darker than the primary colour."""
        base = COLOURS[identity.primary]
        primary = tuple(int(np.clip(c + t, 0, 255)) for c, t in zip(base, identity.tint, strict=True))
        shade = tuple(int(c * 0.82) for c in primary)
        return cls(primary, COLOURS[identity.secondary], shade)  # type: ignore[arg-type]
