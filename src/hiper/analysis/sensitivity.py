"""How much a model listens to its last text rows, before anything is promised of a tail in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hiper.backbones import Backbone
from hiper.conditioning import Conditioning, place_tail, take_tail
from hiper.metrics import picture_distance

SENTENCE, OTHER = "a standing dog", "a pencil sketch of a blue cat in the snow"
"""What is drawn, and whose last rows are put in; words that every model knows, the embedded one included."""

ROWS, PICTURES, STEPS = 5, 4, 20


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """tail: how far a picture moves when the last rows are another sentence's; seed: when the noise is another one.

    Both mean CIE76 (`picture_distance`) over `pictures`, 0 or more; `ratio`: 0 is deaf, 1 as much as another seed.
    """

    tail: float
    seed: float
    pictures: int

    @property
    def ratio(self) -> float:
        """`tail` over `seed`; infinity where seeds make no difference."""
        return self.tail / self.seed if self.seed else float("inf")


def sensitivity(
    backbone: Backbone,
    *,
    sentence: str = SENTENCE,
    other: str = OTHER,
    rows: int = ROWS,
    pictures: int = PICTURES,
) -> Sensitivity:
    """Draw a sentence with its own last rows and with those of another, from the same `pictures` (2 or more) seeds.

    The rows go where the family puts a tail; at most 20 steps are made, at the model's own guidance.
    """
    plain = backbone.encode(sentence)
    moved = place_tail(plain, take_tail(backbone.encode(other), rows), backbone.placement)
    seeds = range(pictures)
    before, after = _drawn(backbone, plain, seeds), _drawn(backbone, moved, seeds)
    by_tail = [picture_distance(one, two) for one, two in zip(before, after, strict=True)]
    by_seed = [picture_distance(one, two) for one, two in zip(before, [*before[1:], before[0]], strict=True)]
    return Sensitivity(tail=float(np.mean(by_tail)), seed=float(np.mean(by_seed)), pictures=pictures)


def _drawn(backbone: Backbone, conditioning: Conditioning, seeds: Sequence[int]) -> list[Image.Image]:
    """One at a time: a model that fills the memory draws them as well."""
    negative = backbone.encode_negative("")
    return [
        backbone.sample(
            conditioning,
            [negative],
            seeds=[seed],
            steps=min(backbone.default_steps, STEPS),
            guidance=backbone.default_guidance,
            scheduler=backbone.schedulers[0],
            height=backbone.resolution,
            width=backbone.resolution,
        ).images[0]
        for seed in seeds
    ]
