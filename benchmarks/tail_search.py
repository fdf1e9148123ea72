"""Compare many ways to learn a tail, cheaply: by the denoising loss of the TRUE edited scenes, without drawing any.

    python -m benchmarks.tail_search [--subjects 6] [--strength 0.8] [--only NAME ...] [--out FILE.json]

A way is worth what its tail, at some strength behind each edit's caption, lowers the loss of the true answer, below
that of the caption alone: mean over the edits and six timesteps, the same noise for all ways. The spelled-out
caption says what could be reached. Subjects are of the tuning split; all are fitted at a time, by Adam written out
here, so that what hiper does not offer can be tried as well. What is there is not made again.
"""

from __future__ import annotations

import json
import math
import statistics
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from benchmarks.common import options, write
from PIL import ImageOps
from torch import Tensor, nn

import hiper
from hiper.backbones import Backbone
from hiper.bench import CrittersSuite
from hiper.conditioning import Conditioning, initial_tail
from hiper.images import fit_square
from hiper.seeds import generator
from hiper.training import mask_weight

TAIL, CHUNK = 5, 24
REFERENCE = (
    "from the caption's token embeddings: step size 0.15 falling by a cosine, noise from 0.5, kept lengths"
)
"""The way that the others change one thing of."""
LEVELS = (960, 880, 760, 620, 460, 300)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a tail is learnt. levels: timesteps seen in all; low, high: of 0 to 1, between which they lie.

    spread: "drawn" levels, or a low-discrepancy "sequence" over the steps; mirrored: every second noise is minus the
    one before, at the same level; averaged: share of the steps, the last ones, whose mean is kept; start: the caption's
    own, the mean of the other subjects' tails, or what the model's tail encoder guesses; masked: the error counts
    on the animal alone; turned: every second step sees the picture mirrored (augmentation); ranges: so many ranges of
    timesteps have their own, each learnt from as many levels (NeTI, arXiv:2305.15391); layers: so has every
    layer of cross-attention (P+, arXiv:2303.09522)
    """

    levels: int = 40
    batch: int = 1
    rate: float = 0.15
    low: float = 0.5
    high: float = 1.0
    cosine: bool = True
    kept: bool = True
    spread: Literal["drawn", "sequence"] = "drawn"
    mirrored: bool = False
    averaged: float = 0.0
    decay: float = 0.999
    update: Literal["adam", "row-adam", "muon"] = "adam"
    start: Literal["caption", "mean", "guess"] = "caption"
    masked: bool = False
    turned: bool = False
    ranges: int = 1
    layers: bool = False


WAYS: Mapping[str, Way] = {
    REFERENCE: Way(),
    "constant step size, mean of the second half": Way(cosine=False, averaged=0.5),
    "the paper's step size, all timesteps, free lengths": Way(rate=0.005, cosine=False, kept=False, low=0),
    "all timesteps": Way(low=0),
    "noise from 0.65": Way(low=0.65),
    "free lengths, step size 0.1": Way(kept=False, rate=0.1),
    "step size 0.075": Way(rate=0.075),
    "step size 0.3": Way(rate=0.3),
    "20 steps of 0.25": Way(levels=20, rate=0.25),
    "80 steps": Way(levels=80),
    "10 steps of 4 timesteps, step size 0.3": Way(batch=4, rate=0.3),
    "each noise followed by its negative": Way(mirrored=True),
    "timesteps in a low-discrepancy sequence": Way(spread="sequence"),
    "Adam with beta2 = 0.9": Way(decay=0.9),
    "one Adam scale per token embedding": Way(update="row-adam"),
    "orthogonal updates (Muon)": Way(update="muon"),
    "from the mean of the other subjects' tails": Way(start="mean"),
    "the loss on the animal alone (mask)": Way(masked=True),
    "every second picture mirrored": Way(turned=True),
    "a tail for each of 2 ranges of noise (NeTI, arXiv:2305.15391)": Way(ranges=2),
    "a tail for each of 2 ranges of noise, 80 steps": Way(ranges=2, levels=80),
    "a tail for each layer (P+, arXiv:2303.09522)": Way(layers=True),
    "the guess alone": Way(start="guess", levels=1, rate=0),
    "from the guess, step size 0.15": Way(start="guess"),
    "from the guess, step size 0.03": Way(start="guess", rate=0.03),
    "from the guess, step size 0.03, mean of the second half": Way(
        start="guess", rate=0.03, cosine=False, averaged=0.5
    ),
    "from the guess, 20 steps of 0.03, mean of the second half": Way(
        start="guess", rate=0.03, cosine=False, averaged=0.5, levels=20
    ),
    "from the guess, 80 steps of 0.03, mean of the second half": Way(
        start="guess", rate=0.03, cosine=False, averaged=0.5, levels=80
    ),
}


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Latents and token embeddings: of the sources [subjects, ...], and of their edits [subjects x edits, ...].

    turned, weight: latents of the mirrored sources, and where the animals are in the sources, of mean 1.
    """

    latents: Tensor
    turned: Tensor
    weight: Tensor
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
        return torch.cat([backbone.encode(each).token_embeddings for each in captions])

    truths = [case.truth for case in edits if case.truth is not None]
    sources = [some[0].source for some in cases]
    masks = [some[0].truth.source_mask for some in cases if some[0].truth is not None]
    return Scenes(
        latents=latents(sources),
        turned=latents([ImageOps.mirror(each) for each in sources]),
        weight=torch.cat([mask_weight(mask, backbone, "crop") for mask in masks]),
        rows=rows([some[0].source_caption for some in cases]),
        edited=latents([truth.image for truth in truths]),
        captions=rows([case.target_caption for case in edits]),
        spelled_out=rows([truth.spelled_out for truth in truths]),
    )


def losses(
    backbone: Backbone, latents: Tensor, rows: Tensor, noise: Tensor, t: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Mean squared error of each batch entry [batch]; rows [batch, 1 or cross-attention layers, length, embed]."""
    diffused = backbone.add_noise(latents, noise, t)
    with tail_by_layer(backbone, rows) if rows.shape[1] > 1 else nullcontext():
        predicted = backbone.predict(
            diffused.noisy, t, Conditioning(token_embeddings=rows[:, 0], num_tokens=1, prompt="")
        )
    error = (predicted - diffused.target).square()
    return (error if weight is None else error * weight).flatten(1).mean(1)


def cross_attention(backbone: Backbone) -> list[nn.Module]:
    """Return the layers that look at the text, in the order of their names."""
    return [module for name, module in backbone.denoiser.named_modules() if name.endswith("attn2")]


@contextmanager
def tail_by_layer(backbone: Backbone, rows: Tensor) -> Iterator[None]:
    """Let every layer of cross-attention see rows of its own: [batch, layers, length, embed]."""
    layers = cross_attention(backbone)
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, given, named, own=own: (given, {**named, "encoder_hidden_states": own}),
            with_kwargs=True,
        )
        for layer, own in zip(layers, rows.unbind(1), strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def truth_loss(backbone: Backbone, seen: Scenes, tail_at: Callable[[int], Tensor]) -> list[float]:
    """Return the loss of each subject's true answers; tail_at: from a timestep to the edits' rows, see `losses`."""
    total = torch.zeros(len(seen.edited))
    with torch.no_grad():
        for number, level in enumerate(LEVELS):
            rows = tail_at(level)
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
    """Return the tails [subjects, 1 or layers, tail, embed] that the way comes to.

    start: [subjects, tail, embed].
    """
    layers = len(cross_attention(backbone)) if way.layers else 1
    tails = start[:, None].repeat(1, layers, 1, 1)
    norms = seen.rows[:, None, -TAIL:].norm(dim=-1, keepdim=True)
    first, second, past = torch.zeros_like(tails), torch.zeros_like(tails), []
    draws = [Draw(way, subject, seen.latents.shape[1:]) for subject in range(len(tails))]
    steps = way.levels // way.batch
    for step in range(steps):
        gradient = _gradient(backbone, seen, way, step, tails, [draw.next() for draw in draws])
        first = 0.9 * first + 0.1 * gradient
        square = gradient.square().mean(-1, keepdim=True) if way.update == "row-adam" else gradient.square()
        second = way.decay * second + (1 - way.decay) * square
        scale = (second / (1 - way.decay ** (step + 1))).sqrt() + 1e-12
        move = _orthogonal(first) if way.update == "muon" else first / (1 - 0.9 ** (step + 1)) / scale
        tails = tails - way.rate * (0.5 * (1 + math.cos(math.pi * step / steps)) if way.cosine else 1) * move
        if way.kept:
            tails = tails / tails.norm(dim=-1, keepdim=True) * norms
        past.append(tails)
    return torch.stack(past[-max(1, round(way.averaged * steps)) :]).mean(0)


def _gradient(
    backbone: Backbone,
    seen: Scenes,
    way: Way,
    step: int,
    tails: Tensor,
    drawn: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    own = tails.clone().requires_grad_()
    rows = behind(seen.rows, own, 1.0).repeat_interleave(way.batch, 0)
    places = way.low + torch.cat([places for _, places in drawn]) * (way.high - way.low)
    t = (places * backbone.timesteps).long().clamp(max=backbone.timesteps - 1)
    latents = seen.turned if way.turned and step % 2 else seen.latents
    error = losses(
        backbone,
        latents.repeat_interleave(way.batch, 0),
        rows,
        torch.cat([noise for noise, _ in drawn]),
        t,
        seen.weight.repeat_interleave(way.batch, 0) if way.masked else None,
    )
    loss = error.sum() / way.batch
    (gradient,) = torch.autograd.grad(loss, own)
    return gradient


def _orthogonal(momentum: Tensor) -> Tensor:
    """All singular values set to one, then as long as a step of Adam (Muon)."""
    left, _, right = torch.linalg.svd(momentum, full_matrices=False)
    orthogonal: Tensor = left @ right * momentum.shape[-1] ** 0.5
    return orthogonal


def behind(captions: Tensor, tails: Tensor, strength: float) -> Tensor:
    """Put each subject's tail [subjects, layers, tail, embed] behind the captions [subjects x edits, length, embed]."""
    edits, layers = len(captions) // len(tails), tails.shape[1]
    heads = captions[:, None, :-TAIL].expand(-1, layers, -1, -1)
    return torch.cat([heads, strength * tails.repeat_interleave(edits, 0)], dim=2)


def tail_by_level(backbone: Backbone, seen: Scenes, way: Way, strength: float) -> Callable[[int], Tensor]:
    """Learn, in each range of timesteps by itself, and return what stands behind the edits' captions at a level."""
    start, width = start_of(backbone, seen, way), (way.high - way.low) / way.ranges
    lows = [way.low + i * width for i in range(way.ranges)]
    parts = [replace(way, low=low, high=low + width, levels=way.levels // way.ranges) for low in lows]
    rows = [behind(seen.captions, learn(backbone, seen, part, start), strength) for part in parts]
    return lambda level: rows[max(0, bisect_right(lows, level / backbone.timesteps) - 1)]


def start_of(backbone: Backbone, seen: Scenes, way: Way) -> Tensor:
    """Where a way starts: of the mean, each subject's own tail is left out."""
    own = seen.rows[:, -TAIL:]
    if way.start == "caption":
        return own
    if way.start == "guess":
        encoder = backbone.tail_encoder
        assert encoder is not None
        captions = [Conditioning(token_embeddings=each[None], num_tokens=1, prompt="") for each in seen.rows]
        guesses = [encoder.guess(each[None]) for each in seen.latents]
        return torch.stack(
            [
                initial_tail(caption, TAIL, "guess", generator(0), guess)
                for caption, guess in zip(captions, guesses, strict=True)
            ]
        )
    tails = learn(backbone, seen, WAYS[REFERENCE], own)[:, 0]
    return (tails.sum(0, keepdim=True) - tails) / (len(tails) - 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Try what is not written down yet; print gains over the caption alone, in thousandths of the loss."""
    parser = options(__doc__, out=Path("benchmarks/tail_search.json"))
    parser.add_argument("--backbone", default="critters")
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--strength", type=float, default=0.8)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), help="default: all that the model allows")
    given = parser.parse_args(arguments)
    backbone = hiper.load_backbone(given.backbone)
    able = [name for name, way in WAYS.items() if way.start != "guess" or backbone.tail_encoder is not None]
    names = given.only or able
    if unable := sorted(set(names).difference(able)):
        parser.error(f"{given.backbone} has no tail encoder, which is needed by {', '.join(unable)}")
    seen = scenes(backbone, [f"{number:03}" for number in range(given.subjects)])
    job = {
        "split": "tuning",
        "subjects": given.subjects,
        "strength": given.strength,
        "weights": backbone.weights_sha256(),
    }
    record = json.loads(given.out.read_text()) if given.out.exists() else {}
    found: dict[str, list[float]] = record["losses"] if record.get("job") == job else {}
    with backbone.training_mode():
        for name, rows in {
            "caption alone": seen.captions,
            "caption with the identity in words": seen.spelled_out,
        }.items():
            found[name] = found.get(name) or truth_loss(backbone, seen, partial(_same, rows[:, None]))
        for name in dict.fromkeys([REFERENCE, *names]):
            if name in found:
                continue
            found[name] = truth_loss(
                backbone, seen, tail_by_level(backbone, seen, WAYS[name], given.strength)
            )
            write(given.out, {"job": job, "losses": found})
            gained = statistics.mean(found["caption alone"]) - statistics.mean(found[name])
            print(f"{name}: {1000 * gained:.1f}", flush=True)


def _same(rows: Tensor, level: int) -> Tensor:
    return rows


if __name__ == "__main__":
    main()
