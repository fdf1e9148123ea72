"""Latents as a transformer reads them: patches of 2 x 2 cells, one token each, and where they lie."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 2


def packed(latents: Tensor) -> Tensor:
    """[batch, c, h, w] -> [batch, h/2 * w/2, 4 c]: patches row by row."""
    return F.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, h: int, w: int) -> Tensor:
    """Undo `packed`."""
    planes = tokens.transpose(1, 2).reshape(len(tokens), -1, h // PATCH, w // PATCH)
    return F.pixel_shuffle(planes, PATCH)


def places(h: int, w: int, axes: int, *, device: torch.device) -> Tensor:
    """Row and column of each patch, on axes 1 and 2 of `axes`: [h/2 * w/2, axes]."""
    grid = torch.zeros(h // PATCH, w // PATCH, axes, device=device)
    grid[..., 1] = torch.arange(h // PATCH, device=device)[:, None]
    grid[..., 2] = torch.arange(w // PATCH, device=device)
    return grid.flatten(0, 1)
