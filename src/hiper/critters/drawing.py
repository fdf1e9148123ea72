"""Draw one animal: a skeleton per pose, a head per species, a coat per identity."""

from __future__ import annotations

import numpy as np

from hiper.critters.anatomy import POSES, Coat, Pose, marks
from hiper.critters.canvas import Canvas, Points, ellipse, place
from hiper.critters.heads import draw_head, draw_tail
from hiper.critters.world import Identity, Scene


def draw_animal(scene: Scene, side: int) -> Canvas:
    """Draw the animal of a scene on an empty square of `side` pixels; `.image` is RGB, `.mask` its coverage."""
    canvas, who, pose = Canvas(scene.view, side), scene.identity, POSES[scene.pose]
    coat = Coat.of(who)
    sturdy = {"elephant": 1.14, "bear": 1.1, "rabbit": 0.9}.get(scene.species, 1.0)
    thick = {"elephant": 0.095, "bear": 0.088, "rabbit": 0.062}.get(scene.species, 0.068)
    rx, ry = pose.radii[0] * who.body, pose.radii[1] * sturdy
    draw_tail(canvas, scene, pose, coat)
    for leg in pose.far_legs:
        canvas.limb(leg_path(leg, who, pose), thick, coat.shade)
    body = ellipse(*pose.body, rx, ry, pose.angle)
    canvas.shape(body, coat.primary)
    canvas.coat(body, [place(m, *pose.body, pose.angle) for m in marks(who, rx, ry, 0)], coat.secondary)
    if who.pattern in ("plain", "striped"):
        canvas.coat(
            body,
            [place(ellipse(0.0, ry * 0.95, rx * 0.75, ry * 0.5), *pose.body, pose.angle)],
            coat.secondary,
        )
    if pose.haunch:
        canvas.shape(ellipse(*pose.haunch, 0.085 * sturdy, 0.08 * sturdy), coat.primary)
    for leg in pose.near_legs:
        path = leg_path(leg, who, pose)
        canvas.limb(path, thick, coat.primary)
        canvas.shape(
            ellipse(path[-1, 0] + 0.012, path[-1, 1] + 0.004, thick * 0.62, thick * 0.42), coat.secondary
        )
    draw_head(canvas, scene, pose, coat)
    return canvas


def leg_path(leg: tuple[tuple[float, float], ...], who: Identity, pose: Pose) -> Points:
    """Return a leg's polyline [n, 2]; legs are long only where the pose leaves them free: feet stay on the ground."""
    path = np.array(leg)
    if not pose.asleep and pose.haunch is None and pose.angle > 10:
        path[1:] = path[0] + (path[1:] - path[0]) * who.legs
    return path
