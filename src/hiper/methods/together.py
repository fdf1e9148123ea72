"""Several subjects fitted at a time: their noise levels go through the denoiser in one call per step.

Each subject keeps its own rows, latents, generator, moments and undoing, so it draws bitwise what a fit of
its own draws, and comes to the same rows but for rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.conditioning import Conditioning, expanded, stacked
from hiper.images import Subject
from hiper.methods.base import Method
from hiper.training import Denoising, Outcome, StopRequest, Turn, attempt


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """One subject, and the options of its fit, resolved."""

    subject: Subject
    options: Any


class FitsTogether(ABC):
    """What a method offers beyond `Method` when it can fit several subjects at a time."""

    @abstractmethod
    def alike(self, options: Any) -> Hashable:
        """Return what the options of subjects that are fitted together must agree in."""

    @abstractmethod
    def noise_levels(self, options: Any) -> int:
        """Return how many noise levels one subject puts into a call of the denoiser."""

    @abstractmethod
    def fit_together(
        self,
        backbone: Backbone,
        requests: Sequence[FitRequest],
        *,
        slots: int,
        should_stop: StopRequest | None = None,
    ) -> list[Outcome[Artifact]]:
        """Fit all, in calls as large as `slots` subjects ask for; one that fails leaves the others alone."""


def fit_all(
    method: Method[Any],
    backbone: Backbone,
    requests: Sequence[FitRequest],
    *,
    slots: int = 1,
    should_stop: StopRequest | None = None,
) -> list[Outcome[Artifact]]:
    """Fit subjects, together where `slots` is above 1 and the method can, else one by one.

    Interrupted when `should_stop` says so; every other HiperError is the outcome of its subject.
    """
    method.check(backbone)
    if slots > 1 and isinstance(method, FitsTogether):
        return method.fit_together(backbone, requests, slots=slots, should_stop=should_stop)
    return [
        attempt(partial(method.fit, backbone, each.subject, each.options, should_stop=should_stop))
        for each in requests
    ]


def losses_together(turns: Sequence[Turn], slots: int) -> list[Tensor]:
    """Return what `Denoising.loss` of each turn returns, from one call of the denoiser.

    The call is as large as `slots` turns make it; where there are fewer, the first one is repeated. The CPU's
    kernels choose by shape alone, so the loss of a turn is bitwise the same beside whatever others.
    Sentences of different lengths cannot share a call: each length has one of its own then, unfilled.
    """
    shares = [_Share.of(turn) for turn in turns]
    lengths = [share.told.length for share in shares]
    if len(set(lengths)) == 1:
        return _losses(shares, slots)
    losses: dict[int, Tensor] = {}
    for _, some in groupby(sorted(range(len(turns)), key=lambda i: (lengths[i], i)), lambda i: lengths[i]):
        indices = list(some)
        losses.update(zip(indices, _losses([shares[i] for i in indices], len(indices)), strict=True))
    return [losses[i] for i in range(len(turns))]


@dataclass(frozen=True, kw_only=True)
class _Share:
    """What one turn puts into a call: noisy latents, targets [batch, c, h, w], levels [batch], one sentence each."""

    objective: Denoising
    noisy: Tensor
    target: Tensor
    t: Tensor
    told: Conditioning

    @classmethod
    def of(cls, turn: Turn) -> _Share:
        objective = cast(Denoising, turn.objective)
        noise, t = objective.draw(turn.generator)
        diffused = objective.backbone.diffuse(objective.latents, noise, t)
        told = expanded(objective.conditioning(turn.parameters), len(t))
        return cls(objective=objective, noisy=diffused.noisy, target=diffused.target, t=t, told=told)

    def filler(self) -> _Share:
        """The same without a gradient."""
        return replace(self, told=replace(self.told, rows=self.told.rows.detach()))


def _losses(shares: Sequence[_Share], slots: int) -> list[Tensor]:
    call = [*shares, *[shares[0].filler()] * (slots - len(shares))]
    predicted = shares[0].objective.backbone.predict(
        torch.cat([share.noisy for share in call]),
        torch.cat([share.t for share in call]),
        stacked([share.told for share in call]),
    )
    parts = torch.split(predicted, [len(share.t) for share in call])
    own = zip(shares, parts[: len(shares)], strict=True)
    return [share.objective.distance(part, share.target) for share, part in own]
