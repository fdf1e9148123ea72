"""Rankers of seed search: by the world's own reader on critters, by CLIP and DINO similarity elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from PIL import Image

from hiper.critters import AttributeReader, load_reader, named_attributes
from hiper.inference import Score, evenly, text_first
from hiper.metrics import ClipSimilarity, DinoSimilarity, colour_distance

_RADIUS = 0.3
"""Of the disc, in sides of the picture, that lies inside an animal of the world."""


@final
class CrittersRanker:
    """Ranks by the share of the prompt's attributes that the reader finds, and by the negated colour distance.

    Colours are compared inside a disc in the middle, where the world's animals are.
    """

    def __init__(self, source: Image.Image) -> None:
        self._source = source
        self._reader: AttributeReader = load_reader("caption")
        self._middle = _disc(source.size)

    def score(self, picture: Image.Image, sentence: str) -> Score:
        """Score a picture; a prompt that names nothing of the world is fulfilled by every picture (1)."""
        wanted = named_attributes(sentence)
        found = self._reader.read([picture])[0].values
        same_size = picture.resize(self._source.size, Image.Resampling.LANCZOS)
        right = [found[name] == value for name, value in wanted.items()]
        return Score(
            text=sum(right) / len(right) if right else 1.0,
            identity=-colour_distance(same_size, self._source, self._middle),
        )

    def order(self, scores: Sequence[Score]) -> list[int]:
        """Order by the prompt first, for a share is exact; then by the colours."""
        return text_first(scores)


@final
class SimilarityRanker:
    """Ranks by CLIP's cosine with the prompt, and by DINO's with the source, or CLIP's where there is no DINO."""

    def __init__(self, source: Image.Image, clip: ClipSimilarity, dino: DinoSimilarity | None) -> None:
        self._source, self._clip = source, clip
        self._likeness: ClipSimilarity | DinoSimilarity = clip if dino is None else dino

    def score(self, picture: Image.Image, sentence: str) -> Score:
        """Score a picture: two cosines, -1 to 1."""
        return Score(
            text=self._clip.text(picture, sentence), identity=self._likeness.image(picture, self._source)
        )

    def order(self, scores: Sequence[Score]) -> list[int]:
        """Weigh both alike, for neither cosine has a value that is good enough."""
        return evenly(scores)


def _disc(size: tuple[int, int]) -> Image.Image:
    """Return a mask, mode L, 255 inside the disc."""
    y, x = np.ogrid[: size[1], : size[0]]
    distance = np.hypot((x + 0.5) / size[0] - 0.5, (y + 0.5) / size[1] - 0.5)
    return Image.fromarray(np.where(distance < _RADIUS, np.uint8(255), np.uint8(0)))
