"""The timesteps that a step trains on."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Sampling = Literal["uniform", "stratified"]


def level_range(low: float, high: float, timesteps: int) -> tuple[int, int]:
    """Turn fractions of the noise range, 0 clean and 1 noise, into timesteps [first, last), never empty."""
    first = min(int(low * timesteps), timesteps - 1)
    return first, max(first + 1, round(high * timesteps))


def draw_levels(
    generator: torch.Generator, batch: int, bounds: tuple[int, int], sampling: Sampling
) -> Tensor:
    """Draw timesteps.

    Args:
        generator: On the CPU.
        batch: How many.
        bounds: They are from [first, last).
        sampling: "uniform" draws them independently (the paper); "stratified" one from each of `batch` equal parts of
            the range, so that no step sees light noise only or heavy noise only, which lowers the variance of the
            gradient.

    Returns:
        [batch].
    """
    first, last = bounds
    if sampling == "uniform":
        return torch.randint(first, last, (batch,), generator=generator)
    return _spread(torch.rand(batch, generator=generator), bounds)


def spread_levels(count: int, bounds: tuple[int, int]) -> Tensor:
    """Return `count` timesteps [count] in the middle of equal parts of [first, last)."""
    return _spread(torch.full((count,), 0.5), bounds)


def _spread(offsets: torch.Tensor, bounds: tuple[int, int]) -> Tensor:
    first, last = bounds
    parts = (torch.arange(len(offsets)) + offsets) / len(offsets)
    return (first + parts * (last - first)).long().clamp(max=last - 1)
