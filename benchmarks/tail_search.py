"""Compare many ways to learn a tail, cheaply: by the denoising loss of the TRUE edited scenes, without drawing any.

    python benchmarks/tail_search.py [--subjects 6] [--strength 0.8] [--only NAME ...] [--out FILE.json]

A way is worth what its tail, at some strength behind each edit's caption, lowers the loss of the true answer, below
that of the caption alone: mean over the edits and six noise levels, the same noise for all ways. The spelled-out
caption says what could be reached. Subjects are of the tuning split; all are fitted at a time, by Adam written out
here, so that what hiper does not offer can be tried as well. What is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import hiper
from hiper.backbones.base import Backbone
from hiper.bench.critters_suite import CrittersSuite
from hiper.conditioning import Conditioning
from hiper.files import atomic_write
from hiper.images import fit_square
from hiper.seeds import generator

TAIL, CHUNK = 5, 24
REFERENCE = "cosine"
"""The way that the others change one thing of."""
LEVELS = (960, 880, 760, 620, 460, 300)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a tail is learnt. levels: noise levels seen in all; low: lowest noise level, of 0 to 1.

    spread: "drawn" levels, or a low-discrepancy "sequence" over the steps; mirrored: every second noise is minus the
    one before, at the same level; averaged: share of the steps, the last ones, whose mean is kept; start: the caption's
    own rows, or the mean of the other subjects' tails
    """

    levels: int = 40
    batch: int = 1
    rate: float = 0.15
    low: float = 0.5
    cosine: bool = True
    kept: bool = True
    spread: Literal["drawn", "sequence"] = "drawn"
    mirrored: bool = False
    averaged: float = 0.0
    decay: float = 0.999
    update: Literal["adam", "row-adam", "muon"] = "adam"
    start: Literal["caption", "mean"] = "caption"


WAYS: Mapping[str, Way] = {
    "cosine": Way(),
    "default": Way(cosine=False, averaged=0.5),
    "paper's step size": Way(rate=0.005, cosine=False, kept=False, low=0),
    "all noise levels": Way(low=0),
    "heavier noise only": Way(low=0.65),
    "free lengths": Way(kept=False, rate=0.1),
    "step size / 2": Way(rate=0.075),
    "step size x 2": Way(rate=0.3),
    "20 levels": Way(levels=20, rate=0.25),
    "80 levels": Way(levels=80),
    "4 levels a step": Way(batch=4, rate=0.3),
    "mirrored noise": Way(mirrored=True),
    "levels in a sequence": Way(spread="sequence"),
    "short memory of the scale (0.9)": Way(decay=0.9),
    "one scale per row": Way(update="row-adam"),
    "orthogonal updates (Muon)": Way(update="muon"),
    "from the others' mean": Way(start="mean"),
}


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Latents and text rows: of the sources [subjects, ...], and of their edits [subjects x edits, ...]."""

    latents: Tensor
    rows: Tensor
    edited: Tensor
    captions: Tensor
    spelled_out: Tensor


def scenes(backbone: Backbone, subjects: Sequence[str]) -> Scenes:
    """Encode sources, true answers and captions."""
    suite = CrittersSuite(split="tuning")
    cases = [suite.cases(name) for name in subjects]
    edits = [case for some in cases for case in some]

    def latents(pictures: Sequence[Any]) -> Tensor:
        return torch.cat(
            [backbone.latents(fit_square(each, backbone.resolution), generator(0)) for each in pictures]
        )

    def rows(captions: Sequence[str]) -> Tensor:
        return torch.cat([backbone.encode(each).rows for each in captions])

    truths = [case.truth for case in edits if case.truth is not None]
    return Scenes(
        latents=latents([some[0].source for some in cases]),
        rows=rows([some[0].source_caption for some in cases]),
        edited=latents([truth.image for truth in truths]),
        captions=rows([case.target_caption for case in edits]),
        spelled_out=rows([truth.spelled_out for truth in truths]),
    )


def losses(backbone: Backbone, latents: Tensor, rows: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of each batch entry [batch]."""
    diffused = backbone.diffuse(latents, noise, t)
    predicted = backbone.predict(diffused.noisy, t, Conditioning(rows=rows, words=1, prompt=""))
    return (predicted - diffused.target).square().flatten(1).mean(1)


def truth_loss(backbone: Backbone, seen: Scenes, rows: Tensor) -> list[float]:
    """Return the loss of each subject's true answers under `rows` [subjects x edits, length, embed]."""
    total = torch.zeros(len(rows))
    with torch.no_grad():
        for number, level in enumerate(LEVELS):
            noise = torch.randn(seen.edited.shape, generator=generator(number))
            for i in range(0, len(rows), CHUNK):
                part = slice(i, i + CHUNK)
                t = torch.full((len(rows[part]),), level)
                total[part] += losses(backbone, seen.edited[part], rows[part], noise[part], t) / len(LEVELS)
    return [float(value) for value in total.view(len(seen.latents), -1).mean(1)]


class Draw:
    """Noise and levels of one subject: each subject draws its own, the same for every way."""

    def __init__(self, way: Way, subject: int, shape: Sequence[int]) -> None:
        self._way, self._subject, self._shape = way, subject, tuple(shape)
        self._random, self._step = generator(subject), 0
        self._last: tuple[Tensor, Tensor] | None = None

    def next(self) -> tuple[Tensor, Tensor]:
        """Return noise [batch, c, h, w] and places in the range of levels [batch], 0 to 1."""
        if self._last is not None and self._way.mirrored:
            noise, places = self._last
            self._last = None
            return -noise, places
        noise = torch.randn(self._way.batch, *self._shape, generator=self._random)
        places = (
            torch.arange(self._way.batch) + torch.rand(self._way.batch, generator=self._random)
        ) / self._way.batch
        if self._way.spread == "sequence":  # of the golden ratio, begun elsewhere by each subject
            places = torch.tensor([(0.618034 * self._step + 0.37 * self._subject) % 1])
        self._last, self._step = (noise, places), self._step + 1
        return noise, places


def learn(backbone: Backbone, seen: Scenes, way: Way, start: Tensor) -> Tensor:
    """Return the tails [subjects, tail, embed] that the way comes to from `start`."""
    tails, norms = start.clone(), seen.rows[:, -TAIL:].norm(dim=2, keepdim=True)
    first, second, past = torch.zeros_like(tails), torch.zeros_like(tails), []
    draws = [Draw(way, subject, seen.latents.shape[1:]) for subject in range(len(tails))]
    steps = way.levels // way.batch
    for step in range(steps):
        gradient = _gradient(backbone, seen, way, tails, [draw.next() for draw in draws])
        first = 0.9 * first + 0.1 * gradient
        square = gradient.square().mean(2, keepdim=True) if way.update == "row-adam" else gradient.square()
        second = way.decay * second + (1 - way.decay) * square
        scale = (second / (1 - way.decay ** (step + 1))).sqrt() + 1e-12
        move = _orthogonal(first) if way.update == "muon" else first / (1 - 0.9 ** (step + 1)) / scale
        tails = tails - way.rate * (0.5 * (1 + math.cos(math.pi * step / steps)) if way.cosine else 1) * move
        if way.kept:
            tails = tails / tails.norm(dim=2, keepdim=True) * norms
        past.append(tails)
    return torch.stack(past[-max(1, round(way.averaged * steps)) :]).mean(0)


def _gradient(
    backbone: Backbone, seen: Scenes, way: Way, tails: Tensor, drawn: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    own = tails.clone().requires_grad_()
    rows = torch.cat([seen.rows[:, :-TAIL], own], dim=1).repeat_interleave(way.batch, 0)
    places = torch.cat([places for _, places in drawn])
    t = ((way.low + places * (1 - way.low)) * backbone.timesteps).long().clamp(max=backbone.timesteps - 1)
    latents = seen.latents.repeat_interleave(way.batch, 0)
    loss = losses(backbone, latents, rows, torch.cat([noise for noise, _ in drawn]), t).sum() / way.batch
    (gradient,) = torch.autograd.grad(loss, own)
    return gradient


def _orthogonal(momentum: Tensor) -> Tensor:
    """All singular values set to one, then as long as a step of Adam (Muon)."""
    left, _, right = torch.linalg.svd(momentum, full_matrices=False)
    orthogonal: Tensor = left @ right * momentum.shape[2] ** 0.5
    return orthogonal


def behind(captions: Tensor, tails: Tensor, strength: float) -> Tensor:
    """Put each subject's tail behind the captions of its edits."""
    edits = len(captions) // len(tails)
    return torch.cat([captions[:, :-TAIL], strength * tails.repeat_interleave(edits, 0)], dim=1)


def start_of(backbone: Backbone, seen: Scenes, way: Way) -> Tensor:
    """Where a way starts: of the mean, each subject's own tail is left out."""
    own = seen.rows[:, -TAIL:]
    if way.start == "caption":
        return own
    tails = learn(backbone, seen, WAYS[REFERENCE], own)
    return (tails.sum(0, keepdim=True) - tails) / (len(tails) - 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Try what is not written down yet; print gains, in thousandths of the loss, best first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="critters")
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--strength", type=float, default=0.8)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/tail_search.json"))
    given = parser.parse_args(arguments)
    backbone = hiper.load_backbone(given.backbone)
    seen = scenes(backbone, [f"{number:03}" for number in range(given.subjects)])
    job = {
        "split": "tuning",
        "subjects": given.subjects,
        "strength": given.strength,
        "weights": backbone.weights_sha256(),
    }
    record = json.loads(given.out.read_text()) if given.out.exists() else {}
    found: dict[str, list[float]] = record["losses"] if record.get("job") == job else {}
    with backbone.fitting():
        for name, rows in {"caption alone": seen.captions, "spelled out": seen.spelled_out}.items():
            found[name] = found.get(name) or truth_loss(backbone, seen, rows)
        for name in dict.fromkeys([REFERENCE, *given.only]):
            if name in found:
                continue
            tails = learn(backbone, seen, WAYS[name], start_of(backbone, seen, WAYS[name]))
            found[name] = truth_loss(backbone, seen, behind(seen.captions, tails, given.strength))
            atomic_write(given.out, f"{json.dumps({'job': job, 'losses': found})}\n".encode(), overwrite=True)
            print(gain(name, found), flush=True)
    print("\n".join(["", *(gain(name, found) for name in sorted(found, key=lambda each: sum(found[each])))]))


def gain(name: str, found: Mapping[str, Sequence[float]]) -> str:
    """Return a line: the gain over the caption alone, and over the reference, paired, with its standard error."""
    own = [1000 * (a - b) for a, b in zip(found["caption alone"], found[name], strict=True)]
    less = [1000 * (a - b) for a, b in zip(found.get(REFERENCE, found[name]), found[name], strict=True)]
    error = statistics.stdev(less) / len(less) ** 0.5 if len(less) > 1 else math.nan
    return f"| {name} | {statistics.mean(own):.1f} | {statistics.mean(less):+.1f} ± {error:.1f} |"


if __name__ == "__main__":
    main()
