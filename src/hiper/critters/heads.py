"""Heads and tails, by which the species differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hiper.critters.anatomy import Coat, Pose, marks
from hiper.critters.canvas import OUTLINE, Canvas, Colour, Points, ellipse, place
from hiper.critters.world import COLOURS, Scene

PINK: Colour = (240, 150, 160)
WHITE: Colour = (255, 255, 255)
RADIUS = 0.148


def draw_tail(canvas: Canvas, scene: Scene, pose: Pose, coat: Coat) -> None:
    """Draw the tail, behind the body."""
    species, length = scene.species, scene.identity.tail
    x, y = pose.tail
    along = np.deg2rad(pose.tail_angle)
    ahead = np.array([np.cos(along), -np.sin(along)])
    side = np.array([ahead[1], -ahead[0]])
    if species in ("rabbit", "bear"):
        r = 0.052 if species == "rabbit" else 0.036
        canvas.shape(
            ellipse(x, y, r * length, r * length), coat.secondary if species == "rabbit" else coat.primary
        )
        return
    reach = {"cat": 0.24, "dog": 0.17, "fox": 0.24, "elephant": 0.15}[species] * length
    bend = {"cat": -0.09, "dog": -0.08, "fox": -0.05, "elephant": 0.03}[species]
    t = np.linspace(0, 1, 9)[:, None]
    path: Points = np.array([x, y]) + ahead * reach * t + side * bend * np.sin(np.pi * t * 0.8)
    width = {"cat": 0.044, "dog": 0.05, "fox": 0.05, "elephant": 0.022}[species]
    canvas.limb(path, width, coat.primary)
    tip_x, tip_y = path[8]
    if species == "fox":
        dx, dy = path[8] - path[4]
        angle = float(np.rad2deg(np.arctan2(-dy, dx)))
        brush = ellipse(path[5, 0], path[5, 1], 0.12 * length, 0.062, angle)
        canvas.shape(brush, coat.primary)
        canvas.coat(brush, [ellipse(tip_x, tip_y, 0.06, 0.07, angle)], coat.secondary)
    elif species == "elephant":
        canvas.shape(ellipse(tip_x, tip_y, 0.022, 0.022), coat.secondary)
    else:
        canvas.limb(path[6:], width, coat.secondary)


def draw_head(canvas: Canvas, scene: Scene, pose: Pose, coat: Coat) -> None:
    """Draw collar, ears and face, in front of the body."""
    species, who = scene.species, scene.identity
    x, y = pose.head
    r = RADIUS * who.head
    turn = 0.0 if not pose.asleep else -8.0
    if who.collar != "none":
        band = ellipse(x - 0.05, y + r * 0.82, 0.115, 0.06, 30 if not pose.asleep else 62)
        canvas.shape(band, COLOURS[who.collar])
        tag = (x + 0.01, y + r * 1.2) if not pose.asleep else (x - 0.09, y + r * 1.05)
        canvas.shape(ellipse(*tag, 0.02, 0.02), (250, 220, 110))
    hanging = species == "dog"
    if not hanging:
        draw_ears(canvas, scene, (x, y, r), turn, coat)
    wide = {"bear": 1.06, "rabbit": 0.92, "fox": 1.04, "elephant": 1.0}.get(species, 1.0)
    head = ellipse(x, y, r * 1.05 * wide, r * 0.95, turn)
    canvas.shape(head, coat.primary)
    canvas.coat(head, [place(m, x, y, turn) for m in marks(who, r, r, 1)], coat.secondary)
    if hanging:
        draw_ears(canvas, scene, (x, y, r), turn, coat)
    face(canvas, scene, x, y, r, coat, asleep=pose.asleep)


@dataclass(frozen=True)
class Ear:
    """One ear in units of the head's radius, head at the origin: outer and inner polygon, and their colours."""

    outer: Points
    outer_colour: Colour
    inner: Points | None = None
    inner_colour: Colour = PINK


def _pointed(tall: float, sign: int) -> tuple[Points, Points]:
    base = np.array([[0.22 * sign, -0.75], [0.92 * sign, -0.45], [0.78 * sign, -0.72 - tall]])
    return base, base * 0.72 + base.mean(0) * 0.24


def _ear(species: str, size: float, sign: int, coat: Coat) -> Ear:
    if species == "cat":
        outer, inner = _pointed(size * 0.75, sign)
        return Ear(outer, coat.primary, inner)
    if species == "fox":
        outer, inner = _pointed(size * 0.95, sign)
        return Ear(outer, coat.primary, inner, coat.secondary)
    if species == "rabbit":
        outer = ellipse(0.4 * sign, -0.8 - 0.55 * size, 0.26, 0.72 * size, -12 * sign)
        return Ear(
            outer, coat.primary, ellipse(0.4 * sign, -0.8 - 0.52 * size, 0.13, 0.55 * size, -12 * sign)
        )
    if species == "bear":
        outer, inner = (ellipse(0.74 * sign, -0.72, r * size, r * size) for r in (0.34, 0.18))
        return Ear(outer, coat.primary, inner, coat.secondary)
    if species == "elephant":
        outer = ellipse(1.05 * sign, -0.1, 0.62 * size, 0.78 * size, 10 * sign)
        inner = ellipse(1.08 * sign, -0.08, 0.4 * size, 0.55 * size, 10 * sign)
        return Ear(outer, coat.primary, inner, coat.secondary)
    return Ear(ellipse(0.95 * sign, 0.02, 0.3, 0.68 * size, -16 * sign), coat.secondary)


def draw_ears(
    canvas: Canvas, scene: Scene, head: tuple[float, float, float], turn: float, coat: Coat
) -> None:
    """Draw both ears of a head (centre x, y and radius)."""
    x, y, r = head
    for sign in (-1, 1):
        ear = _ear(scene.species, scene.identity.ears, sign, coat)
        canvas.shape(place(ear.outer * r, x, y, turn), ear.outer_colour)
        if ear.inner is not None:
            canvas.shape(place(ear.inner * r, x, y, turn), ear.inner_colour, outline=False)


def face(canvas: Canvas, scene: Scene, x: float, y: float, r: float, coat: Coat, *, asleep: bool) -> None:
    """Draw muzzle, nose, mouth and eyes, turned a little to the right of the picture."""
    species = scene.species
    fx = x + 0.10 * r
    if species == "elephant":
        trunk = np.array([[0.05, 0.2], [0.12, 0.75], [0.3, 1.25], [0.62, 1.35]]) * r + np.array([fx, y])
        if asleep:
            trunk = np.array([[0.05, 0.2], [0.3, 0.6], [0.8, 0.85], [1.15, 0.8]]) * r + np.array([fx, y])
        canvas.limb(trunk, 0.4 * r, coat.primary)
    else:
        size = {
            "dog": (0.5, 0.4),
            "bear": (0.46, 0.36),
            "fox": (0.5, 0.34),
            "cat": (0.42, 0.28),
            "rabbit": (0.36, 0.28),
        }
        mx, my = size[species]
        canvas.shape(
            ellipse(fx, y + 0.42 * r, mx * r, my * r), coat.secondary, outline=species in ("dog", "bear")
        )
        nose = {"dog": 0.19, "bear": 0.16, "fox": 0.14}.get(species, 0.1)
        colour = PINK if species in ("cat", "rabbit") else OUTLINE
        canvas.shape(
            ellipse(fx, y + 0.26 * r, nose * r * 1.2, nose * r), colour, outline=species in ("cat", "rabbit")
        )
        smile = np.array([[-0.2, 0.52], [-0.1, 0.6], [0, 0.5], [0.1, 0.6], [0.2, 0.52]]) * r + np.array(
            [fx, y]
        )
        canvas.curve(smile, 0.010)
    eyes(canvas, scene, fx, y, r, asleep=asleep)


def eyes(canvas: Canvas, scene: Scene, fx: float, y: float, r: float, *, asleep: bool) -> None:
    """Draw the eyes: open ones show the iris colour, closed ones are arcs."""
    colour = COLOURS[scene.identity.eyes]
    for sign in (-1, 1):
        ex, ey = fx + 0.46 * sign * r, y - 0.14 * r
        if asleep:
            t = np.linspace(0.15 * np.pi, 0.85 * np.pi, 9)
            canvas.curve(np.stack([ex + 0.2 * r * np.cos(t), ey + 0.16 * r * np.sin(t)], 1), 0.016)
            continue
        canvas.shape(ellipse(ex, ey, 0.29 * r, 0.33 * r), WHITE)
        canvas.shape(ellipse(ex + 0.02 * r, ey, 0.25 * r, 0.29 * r), colour, outline=False)
        canvas.shape(ellipse(ex + 0.04 * r, ey + 0.02 * r, 0.10 * r, 0.13 * r), (20, 16, 20), outline=False)
        canvas.shape(ellipse(ex + 0.12 * r, ey - 0.13 * r, 0.06 * r, 0.06 * r), WHITE, outline=False)
