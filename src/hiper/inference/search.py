"""Seed search: many quick draws of one sentence, ranked by text and by identity, and the best drawn in full.

A draw of few steps shows where its seed is heading, for noise and sentence decide most of a picture and the number of
steps little; so looking at many seeds costs a fraction of drawing them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Unpack

from PIL import Image

from hiper.artifacts import Artifact, EditResult
from hiper.backbones import Backbone, StepCallback
from hiper.inference.edited_picture import EditedPicture
from hiper.inference.editing import edit
from hiper.options import SamplingKwargs, check_whole

MAX_CANDIDATES = 256


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a picture shows the sentence and the subject; higher is better, the units are the ranker's."""

    text: float
    identity: float


class Ranker(Protocol):
    """Says how good a picture is, and which of several is better."""

    def score(self, picture: Image.Image, sentence: str) -> Score:
        """Score one picture."""

    def order(self, scores: Sequence[Score]) -> list[int]:
        """Return the positions of all scores, the best first."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A quick draw and its score."""

    seed: int
    image: Image.Image
    score: Score


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """All quick draws, the best first, and the full draws of the best, with their scores, in the same order."""

    candidates: tuple[Candidate, ...]
    drawn: EditResult
    scores: tuple[Score, ...]


def search_seeds(
    backbone: Backbone,
    artifact: Artifact,
    sentence: str,
    ranker: Ranker,
    *,
    first_seed: int = 0,
    candidates: int = 24,
    quick_steps: int = 8,
    best: int = 4,
    source: EditedPicture | None = None,
    callback: StepCallback | None = None,
    **sampling: Unpack[SamplingKwargs],
) -> SearchResult:
    """Draw many seeds quickly, and the best of them in full; errors and warnings are those of `edit`.

    Args:
        backbone: The model.
        artifact: What was learnt.
        sentence: The prompt.
        ranker: Scores pictures.
        first_seed: The seeds follow from this one.
        candidates: How many are drawn quickly, 1 to 256.
        quick_steps: Denoising steps of a quick draw.
        best: How many are drawn in full, 1 to `candidates`.
        source: What `prepare_picture` returned, as in `edit`.
        callback: Called after each denoising step with (steps done, steps in all); the full draws may be longer than
            was known before.
        **sampling: As of `edit`, also for the quick draws, except their steps; a negative prompt for each candidate
            stays with it.
    """
    check_whole("candidates", candidates, 1, MAX_CANDIDATES)
    check_whole("best", best, 1, candidates)
    quickly: SamplingKwargs = {**sampling, "num_inference_steps": quick_steps}
    seeds = range(first_seed, first_seed + candidates)
    quick = edit(backbone, artifact, sentence, seeds=seeds, source=source, callback=callback, **quickly)
    ranked = _ranked(ranker, quick)
    chosen = [candidate.seed for candidate in ranked[:best]]
    negatives = quick.settings.negative_prompt
    if len(negatives) > 1:
        sampling["negative_prompt"] = [negatives[seed - first_seed] for seed in chosen]
    drawn = edit(backbone, artifact, sentence, seeds=chosen, source=source, callback=callback, **sampling)
    scores = tuple(ranker.score(picture, drawn.prompt) for picture in drawn.images)
    return SearchResult(candidates=ranked, drawn=drawn, scores=scores)


def text_first(scores: Sequence[Score]) -> list[int]:
    """Order by text, and by identity where text is equal: for exact scores of text, such as a share of attributes."""
    return sorted(range(len(scores)), key=lambda i: (scores[i].text, scores[i].identity), reverse=True)


def evenly(scores: Sequence[Score]) -> list[int]:
    """Order by the sum of both, each in its own standard deviations: for cosines, whose ranges do not compare."""
    text, identity = (_standardised([getattr(s, name) for s in scores]) for name in ("text", "identity"))
    return sorted(range(len(scores)), key=lambda i: text[i] + identity[i], reverse=True)


def _ranked(ranker: Ranker, quick: EditResult) -> tuple[Candidate, ...]:
    scores = [ranker.score(picture, quick.prompt) for picture in quick.images]
    return tuple(
        Candidate(seed=quick.seeds[i], image=quick.images[i], score=scores[i]) for i in ranker.order(scores)
    )


def _standardised(values: Sequence[float]) -> list[float]:
    mean, spread = statistics.fmean(values), statistics.pstdev(values)
    return [(value - mean) / spread if spread else 0.0 for value in values]
