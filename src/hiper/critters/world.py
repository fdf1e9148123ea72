"""What exists in the world of critters: identities (never in a bare caption) and scenes (always in it).

A scene is species x pose x background x style, which the caption names, an `Identity`, which it does not, and a
`View`, which nobody names (facing, place, size, background details). All three are plain data drawn from a seed, so
the true answer to an edit is the same identity and view drawn again with another pose, background or style.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

SPECIES = ("cat", "dog", "rabbit", "bear", "fox", "elephant")
POSES = ("standing", "sitting", "sleeping", "jumping")
BACKGROUNDS = ("studio", "meadow", "beach", "snow", "city", "room", "forest")
STYLES = ("drawing", "watercolor", "sketch", "chalk")
PATTERNS = ("plain", "spotted", "striped", "patched")
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (244, 240, 232),
    "black": (52, 50, 58),
    "grey": (146, 148, 154),
    "brown": (126, 82, 52),
    "orange": (236, 138, 48),
    "yellow": (246, 212, 80),
    "pink": (244, 156, 178),
    "red": (206, 58, 52),
    "blue": (84, 138, 210),
    "green": (104, 172, 92),
    "purple": (148, 102, 186),
}
COLLARS = ("none", "red", "blue", "green", "yellow", "purple")
EYES = ("black", "blue", "green", "brown")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who the animal is: everything that must survive an edit.

    Ears, head, body, legs and tail are factors on their lengths, around 1.

    Attributes:
        tint: Shift of the primary colour, -10 to 10 per channel (8-bit sRGB).
    """

    primary: str
    secondary: str
    pattern: str
    collar: str
    eyes: str
    pattern_seed: int
    tint: tuple[int, int, int]
    ears: float
    head: float
    body: float
    legs: float
    tail: float


@dataclass(frozen=True, kw_only=True)
class View:
    """What is neither named nor part of the identity; offsets `dx` and `dy` are fractions of the picture's side."""

    flip: bool
    dx: float
    dy: float
    scale: float
    background_seed: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture of the world, before it is drawn."""

    species: str
    pose: str
    background: str
    style: str
    identity: Identity
    view: View

    def edited(self, **changes: str) -> Scene:
        """Return the true answer to an edit: the same animal and view with another pose, background or style."""
        return replace(self, **changes)  # type: ignore[arg-type]


def draw_identity(rng: np.random.Generator) -> Identity:
    """Draw an identity: colours are uniform over the palette, primary and secondary differ."""
    primary, secondary = rng.choice(list(COLOURS), size=2, replace=False)
    low, high = 0.85, 1.18
    return Identity(
        primary=str(primary),
        secondary=str(secondary),
        pattern=str(rng.choice(PATTERNS)),
        collar=str(rng.choice(COLLARS)),
        eyes=str(rng.choice(EYES)),
        pattern_seed=int(rng.integers(2**31)),
        tint=(int(rng.integers(-10, 11)), int(rng.integers(-10, 11)), int(rng.integers(-10, 11))),
        ears=float(rng.uniform(low, 1.25)),
        head=float(rng.uniform(0.92, 1.1)),
        body=float(rng.uniform(0.9, 1.12)),
        legs=float(rng.uniform(low, high)),
        tail=float(rng.uniform(low, 1.2)),
    )


def draw_view(rng: np.random.Generator) -> View:
    """Draw a view: facing either way, within 4 % of the centre, size 0.88 to 0.98."""
    return View(
        flip=bool(rng.integers(2)),
        dx=float(rng.uniform(-0.04, 0.04)),
        dy=float(rng.uniform(-0.02, 0.03)),
        scale=float(rng.uniform(0.88, 0.98)),
        background_seed=int(rng.integers(2**31)),
    )


def draw_scene(seed: int) -> Scene:
    """Draw the scene of a seed (0 or greater): every attribute is uniform and independent."""
    rng = np.random.default_rng(seed)
    return Scene(
        species=str(rng.choice(SPECIES)),
        pose=str(rng.choice(POSES)),
        background=str(rng.choice(BACKGROUNDS)),
        style=str(rng.choice(STYLES)),
        identity=draw_identity(rng),
        view=draw_view(rng),
    )
