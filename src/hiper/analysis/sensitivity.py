"""How much a model responds to its last token embeddings, where a tail is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hiper.backbones import Backbone
from hiper.conditioning import Conditioning, place_tail, take_tail
from hiper.metrics import picture_distance

SENTENCE, OTHER = "a standing dog", "a pencil sketch of a blue cat in the snow"
"""What is drawn, and whose last token embeddings are put in; words that every model knows, the embedded one too."""

TAIL, PICTURES, STEPS = 5, 4, 20


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """How far pictures change, in mean CIE76 (`picture_distance`), 0 or more.

    Attributes:
        tail: When the last token embeddings are another prompt's.
        seed: When the noise is another one.
        pictures: That were compared.
    """

    tail: float
    seed: float
    pictures: int

    @property
    def ratio(self) -> float:
        """`tail` over `seed`: 0 is no response, 1 as much as another seed; infinity where seeds make no difference."""
        return self.tail / self.seed if self.seed else float("inf")


def sensitivity(
    backbone: Backbone,
    *,
    sentence: str = SENTENCE,
    other: str = OTHER,
    tail: int = TAIL,
    pictures: int = PICTURES,
) -> Sensitivity:
    """Draw a prompt with its own last token embeddings and with those of another, from the same seeds.

    They go where the family puts a tail; at most 20 steps are made, at the model's own guidance.

    Args:
        backbone: The model.
        sentence: The prompt.
        other: The other prompt.
        tail: How many token embeddings.
        pictures: 2 or more.
    """
    plain = backbone.encode(sentence)
    moved = place_tail(plain, take_tail(backbone.encode(other), tail), backbone.placement)
    seeds = range(pictures)
    before, after = _drawn(backbone, plain, seeds), _drawn(backbone, moved, seeds)
    by_tail = [picture_distance(one, two) for one, two in zip(before, after, strict=True)]
    by_seed = [picture_distance(one, two) for one, two in zip(before, [*before[1:], before[0]], strict=True)]
    return Sensitivity(tail=float(np.mean(by_tail)), seed=float(np.mean(by_seed)), pictures=pictures)


def _drawn(backbone: Backbone, conditioning: Conditioning, seeds: Sequence[int]) -> list[Image.Image]:
    """Draw one picture at a time, so that a model that fills the memory can."""
    negative = backbone.encode_negative("")
    settings = backbone.sampling_settings(
        num_inference_steps=min(backbone.default_num_inference_steps, STEPS)
    )
    return [backbone.sample(conditioning, [negative], settings, seeds=[seed]).images[0] for seed in seeds]
