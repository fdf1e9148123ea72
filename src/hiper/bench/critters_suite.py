"""The suite with ground truth: animals of the procedural world, four kinds of edit, and the true answer to each.

The split of a seed is drawn anew from the same distribution, so that nobody tunes on the one that is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import final

import numpy as np
from PIL import Image

from hiper.backbones import hashes
from hiper.bench.base import Case, Metric, Scores, Suite, Truth
from hiper.critters import (
    READING_SIZE,
    SIZE,
    AttributeReader,
    Kind,
    Reading,
    Scene,
    bare_caption,
    draw_scene,
    full_caption,
    load_reader,
    render,
    species_caption,
    subject_mask,
    true_values,
    world,
)
from hiper.metrics import (
    colour_distance,
    edit_success,
    identity_match,
    picture_distances,
    preservation,
    source_leak,
    structural_similarity,
)
from hiper.options import check_choice, check_whole, digest

SPLITS = {"tuning": 2 * 10**9, "test": 3 * 10**9}
"""First scene seed of a split; training used those from 0, the demo those from 10**9."""
SUBJECTS = 120
LARGEST_SEED = 900
KINDS: Mapping[str, tuple[str, ...]] = {
    "motion": ("pose",),
    "background": ("background",),
    "texture": ("style",),
    "two-at-once": (),
}
"""Kind of edit to the attributes it changes; two at once are drawn from the three."""
_VALUES = {"pose": world.POSES, "background": world.BACKGROUNDS, "style": world.STYLES}
IDENTITY = ("primary", "secondary", "pattern", "collar", "eyes")
"""Metrics of a subject's identity."""

_share = partial(Metric, better="higher", unit="share", low=0, high=1)
_colour = partial(Metric, better="lower", unit="CIE76", low=0, high=None)
METRICS: Mapping[str, Metric] = {
    "edit_success": _share(text="what was asked to change has changed"),
    "preservation": _share(text="what was not asked is as it was"),
    "colour_distance": _colour(text="colours of the subject, to the true answer"),
    **{name: _share(text=f"{name} of the identity is right") for name in IDENTITY},
    "picture_distance": _colour(text="the whole picture, to the true answer"),
    "inside_distance": _colour(text="the same, inside the subject's old and new outline"),
    "outside_distance": _colour(text="the same, outside of both outlines"),
    "structure": Metric(
        text="structure of the whole picture, to the true answer",
        better="higher",
        unit="SSIM",
        low=-1,
        high=1,
    ),
    "source_leak": _share(text="what should have changed is the source's", better="lower"),
}


@dataclass(frozen=True, kw_only=True)
class CrittersCase(Case):
    """A case and the two scenes behind it."""

    before: Scene
    after: Scene


@final
class CrittersSuite(Suite):
    """120 subjects x 4 edits of a split ("tuning" or "test") and a seed (0 to 900); scored at the readers' size."""

    def __init__(self, *, split: str = "test", seed: int = 0) -> None:
        check_choice("split", split, SPLITS)
        check_whole("seed", seed, 0, LARGEST_SEED)
        self.split, self.seed = split, seed

    def identity(self) -> Mapping[str, str | int]:
        readers = digest(hashes(dict(self._readers.items())))[:16]
        return {
            "suite": "critters",
            "split": self.split,
            "seed": self.seed,
            "pixels": SIZE,
            "readers": readers,
        }

    def subjects(self) -> Sequence[str]:
        return [f"{number:03}" for number in range(SUBJECTS)]

    def cases(self, subject: str) -> Sequence[CrittersCase]:
        number = SPLITS[self.split] + self.seed * 10**6 + int(subject)
        before = replace(draw_scene(number), style="drawing")  # for a photograph: it shows every colour
        rng = np.random.default_rng([number, 1])
        return [self._case(subject, kind, before, _edited(before, kind, rng)) for kind in KINDS]

    def _case(self, subject: str, kind: str, before: Scene, after: Scene) -> CrittersCase:
        return CrittersCase(
            subject=subject,
            edit=kind,
            source=render(before),
            source_caption=bare_caption(before),
            other_captions={"vague": species_caption(before), "wrong": bare_caption(_misnamed(before))},
            target_caption=bare_caption(after),
            mask=None,  # a person's photograph comes without one
            truth=Truth(
                image=render(after),
                mask=subject_mask(after),
                source_mask=subject_mask(before),
                spelled_out=full_caption(after),
            ),
            before=before,
            after=after,
        )

    def metrics(self) -> Mapping[str, Metric]:
        return METRICS

    def score(self, case: Case, picture: Image.Image) -> Scores:
        if not isinstance(case, CrittersCase) or case.truth is None:
            raise TypeError("a case of another suite")
        picture, answer, mask, source_mask = (
            each.resize((READING_SIZE, READING_SIZE), Image.Resampling.BOX)
            for each in (picture, case.truth.image, case.truth.mask, case.truth.source_mask)
        )
        found = self._read("caption", picture).values
        source, target = true_values(case.before, "caption"), true_values(case.after, "caption")
        identity = identity_match(
            self._read("identity", picture).values,
            self._read("identity", answer).legible,
            true_values(case.after, "identity"),
        )
        distance = picture_distances(picture, answer, [mask, source_mask])
        return {
            "edit_success": edit_success(found, source, target),
            "preservation": preservation(found, source, target),
            "colour_distance": colour_distance(picture, answer, mask),
            **identity,
            "picture_distance": distance.whole,
            "inside_distance": distance.inside,
            "outside_distance": distance.outside,
            "structure": structural_similarity(picture, answer),
            "source_leak": source_leak(found, source, target),
        }

    @cached_property
    def _readers(self) -> Mapping[Kind, AttributeReader]:
        return {"caption": load_reader("caption"), "identity": load_reader("identity")}

    def _read(self, kind: Kind, picture: Image.Image) -> Reading:
        return self._readers[kind].read([picture])[0]


def _edited(before: Scene, kind: str, rng: np.random.Generator) -> Scene:
    names = KINDS[kind] or tuple(rng.choice(list(_VALUES), size=2, replace=False))
    changes = {}
    for name in names:
        others = [value for value in _VALUES[name] if value != getattr(before, name)]
        changes[name] = str(rng.choice(others))
    return before.edited(**changes)


def _misnamed(scene: Scene) -> Scene:
    """Return the same scene with the next species of the world."""
    following = (world.SPECIES.index(scene.species) + 1) % len(world.SPECIES)
    return replace(scene, species=world.SPECIES[following])
