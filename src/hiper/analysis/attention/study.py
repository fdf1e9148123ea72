"""The attention of one prompt, captured with what was learnt and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from PIL import Image
from torch import Tensor

from hiper.analysis.attention.figures import Figures, distance, figures, group_figures
from hiper.analysis.attention.maps import Maps
from hiper.analysis.attention.tokens import LabelledToken, places
from hiper.options import Value


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionRun:
    """One run: the picture that the maps lie over, the tokens, and the maps."""

    picture: Image.Image
    tokens: tuple[LabelledToken, ...]
    maps: Maps


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The tail, and the padding that stood in its places before; distances as in `figures.distance`."""

    tail: Figures
    padding: Figures
    tail_to_padding: float
    tail_to_words: float
    padding_to_words: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Which tokens a picture attends to, and where.

    Attributes:
        prompt: What was encoded.
        caption: Of the artifact.
        method: Of the artifact.
        backbone: The model's name.
        drawn: The prompt was drawn; otherwise a given picture was read under noise.
        settings: Of the drawing or the reading.
        learnt: The run with what was learnt.
        untouched: The run without it, from the same noise.
        mask: [SIDE, SIDE], share of each place that is subject; None where that is not known.
    """

    prompt: str
    caption: str
    method: str
    backbone: str
    drawn: bool
    settings: Mapping[str, Value]
    learnt: AttentionRun
    untouched: AttentionRun
    mask: Tensor | None

    @property
    def subject_area(self) -> float | None:
        """Share of the picture that is subject; None without a mask."""
        return None if self.mask is None else float(self.mask.mean())

    def token_figures(self) -> list[tuple[LabelledToken, Figures]]:
        """Return every token of the run with what was learnt, and its figures."""
        maps = self.learnt.maps.whole
        return [(token, figures(maps[token.index], self.mask)) for token in self.learnt.tokens]

    def contrast(self) -> Contrast | None:
        """Compare the tail with the padding it replaced; None for a prompt without a tail or without words."""
        tail, words = places(self.learnt.tokens, "tail"), places(self.learnt.tokens, "word")
        if not tail or not words:
            return None
        after, before = self.learnt.maps.whole, self.untouched.maps.whole
        seen, padding = after[tail].sum(0), before[tail].sum(0)
        return Contrast(
            tail=figures(seen, self.mask),
            padding=figures(padding, self.mask),
            tail_to_padding=distance(seen, padding),
            tail_to_words=distance(seen, after[words].sum(0)),
            padding_to_words=distance(padding, before[words].sum(0)),
        )

    def as_record(self, *, maps: bool) -> dict[str, object]:
        """Return all figures, ready for JSON; `maps` adds the map of each token, a list of lines of probabilities."""
        contrast = self.contrast()
        learnt, untouched = self.learnt, self.untouched
        return {
            "prompt": self.prompt,
            "caption": self.caption,
            "method": self.method,
            "backbone": self.backbone,
            "over": "drawing" if self.drawn else "picture",
            "settings": dict(self.settings),
            "subject_area": self.subject_area,
            "groups": {
                "learnt": self._groups(learnt.maps.whole, learnt.tokens),
                "untouched": self._groups(untouched.maps.whole, untouched.tokens),
            },
            "contrast": None if contrast is None else asdict(contrast),
            "layers": [self._layer(name, heads) for name, heads in learnt.maps.heads.items()],
            "phases": [self._groups(seen, learnt.tokens) for seen in learnt.maps.phases],
            "tokens": self._tokens(maps=maps),
        }

    def _tokens(self, *, maps: bool) -> list[dict[str, object]]:
        records: list[dict[str, object]] = [
            {**asdict(token), **asdict(found)} for token, found in self.token_figures()
        ]
        for record, seen in zip(records, self.learnt.maps.whole.tolist(), strict=True):
            if maps:
                record["map"] = [[round(value, 6) for value in line] for line in seen]
        return records

    def _layer(self, name: str, heads: Tensor) -> dict[str, object]:
        return {
            "layer": name,
            "side": self.learnt.maps.sides[name],
            "groups": self._groups(heads.mean(0), self.learnt.tokens),
            "heads": [self._groups(head, self.learnt.tokens) for head in heads],
        }

    def _groups(self, maps: Tensor, tokens: Sequence[LabelledToken]) -> dict[str, object]:
        return {kind: asdict(found) for kind, found in group_figures(maps, tokens, self.mask).items()}
