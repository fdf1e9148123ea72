"""Running means of attention maps: memory depends on layers, heads and tokens alone, not on steps or pixels."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from hiper.backbones import AttentionProbabilities

SIDE = 16
"""Cells of a map's side. A layer of another size is averaged or repeated into it: exact where one divides the other."""

PHASES = 5
"""Equal parts of the way from noise to picture that are kept apart."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Maps:
    """The attention probabilities of each place of a picture; they sum to 1 over the tokens.

    Attributes:
        heads: Layer to [heads, length, SIDE, SIDE], means over all steps, in the order in which the layers run.
        phases: [phases, length, SIDE, SIDE], means over all layers and heads; the first phase is the noisiest.
        sides: Layer to cells of its own height.
    """

    heads: Mapping[str, Tensor]
    phases: Tensor
    sides: Mapping[str, int]

    @property
    def layers(self) -> dict[str, Tensor]:
        """Layer to [length, SIDE, SIDE], means over its heads."""
        return {layer: heads.mean(0) for layer, heads in self.heads.items()}

    @property
    def whole(self) -> Tensor:
        """[length, SIDE, SIDE]: every layer counts alike, and every head within it."""
        return torch.stack(list(self.layers.values())).mean(0)


@final
class Recorder:
    """Sums the attention probabilities of a denoiser's calls.

    Args:
        pictures: The last so many batch entries count, which are those of the positive prompt.
        steps: Of the drawing.
        aspect: Height of the pictures over their width.
    """

    def __init__(self, *, pictures: int, steps: int, aspect: float = 1.0) -> None:
        self._pictures, self._steps, self._aspect = pictures, steps, aspect
        self._step = 0
        self._heads: dict[str, _Mean] = defaultdict(_Mean)
        self._phases = [_Mean() for _ in range(min(PHASES, steps))]
        self._sides: dict[str, int] = {}

    def record(self, attended: AttentionProbabilities) -> None:
        """Add one call of one layer."""
        probabilities = attended.probabilities[-self._pictures :].mean(0)
        side = round(math.sqrt(probabilities.shape[1] * self._aspect))
        own = probabilities.transpose(1, 2).reshape(*probabilities.shape[::2], side, -1)
        maps = functional.adaptive_avg_pool2d(own, SIDE)
        self._sides[attended.layer] = side
        self._heads[attended.layer].add(maps)
        self._phases[self._step * len(self._phases) // self._steps].add(maps.mean(0))

    def after_step(self, done: int, total: int) -> None:
        """Count steps, as a `StepCallback`; a sampler's extra calls belong to the last step."""
        self._step = min(done, self._steps - 1)

    def maps(self) -> Maps:
        """Return the means so far, on the CPU."""
        return Maps(
            heads={layer: mean.value() for layer, mean in self._heads.items()},
            phases=torch.stack([mean.value() for mean in self._phases]),
            sides=dict(self._sides),
        )


@final
class _Mean:
    """Sum and count of tensors of one shape."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, values: Tensor) -> None:
        self._sum = values.clone() if self._sum is None else self._sum.add_(values)
        self._count += 1

    def value(self) -> Tensor:
        assert self._sum is not None, "no layer was captured"
        return (self._sum / self._count).cpu()
