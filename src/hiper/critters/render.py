"""Draw a scene: background, shadow, animal, style."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFilter

from hiper.critters.backgrounds import draw_background
from hiper.critters.canvas import GROUND
from hiper.critters.drawing import draw_animal
from hiper.critters.styles import apply_style
from hiper.critters.world import Scene

SIZE = 128
"""Native side of the world's pictures in pixels."""
OVERSAMPLE = 4


def render(scene: Scene, size: int = SIZE) -> Image.Image:
    """Draw a scene as an RGB square of `size` pixels."""
    side = size * OVERSAMPLE
    image = draw_background(scene.background, scene.view.background_seed, side)
    _shadow(image, scene)
    animal = draw_animal(scene, side)
    image.paste(animal.image, (0, 0), animal.mask)
    styled = apply_style(scene.style, image, scene.view.background_seed)
    return styled.resize((size, size), Image.Resampling.BOX)


def subject_mask(scene: Scene, size: int = SIZE) -> Image.Image:
    """Return where the animal is: mode L, 255 inside, the same geometry as `render`."""
    return draw_animal(scene, size * OVERSAMPLE).mask.resize((size, size), Image.Resampling.BOX)


def _shadow(image: Image.Image, scene: Scene) -> None:
    """Darken the ground under the animal; a jumping one leaves it far below."""
    side, view = image.width, scene.view
    half = 0.24 if scene.pose == "jumping" else 0.29
    x, y = 0.5 + view.dx - (0.04 if not view.flip else -0.04), GROUND + view.dy + 0.03
    cover = Image.new("L", image.size)
    box = ((x - half) * side, (y - 0.035) * side, (x + half) * side, (y + 0.035) * side)
    ImageDraw.Draw(cover).ellipse(box, fill=80)
    image.paste((30, 30, 40), (0, 0), cover.filter(ImageFilter.BoxBlur(side * 0.008)))
