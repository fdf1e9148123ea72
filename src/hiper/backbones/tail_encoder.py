"""A small network beside a model that sees a picture's latents and guesses the tail a fit would find.

A fit then starts where it would else end. One belongs to one model: the embedded one's is trained by
`training.critters.tail` through the frozen denoiser, as E4T trains an encoder of words (Gal et al.,
arXiv:2302.12228).
"""

from __future__ import annotations

from pathlib import Path
from typing import Self, final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hiper.backbones.checks import check_part
from hiper.errors import BackboneError

FILE = "tail_encoder.safetensors"
"""Its name in a model's folder."""
WIDTHS, HIDDEN = (64, 96, 160), 384
_SHRINK = 2 ** len(WIDTHS)


@final
class _Block(nn.Module):
    """Two convolutions beside an identity, then half the size and other channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, out, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, h, w] to [batch, out, h / 2, w / 2]."""
        x = x + self.second(F.silu(self.first(F.silu(self.norm(x)))))
        return F.silu(self.down(x))


@final
class TailEncoder(nn.Module):
    """Predicts a tail from latents; only the directions of its token embeddings count.

    Args:
        channels: Of the latents, in the model's scale.
        side: Of the latents, a multiple of 8.
        tail: Number of token embeddings.
        embed_dim: Their width.
    """

    def __init__(self, channels: int, side: int, tail: int, embed_dim: int) -> None:
        super().__init__()
        self.side, self.tail, self.embed_dim = side, tail, embed_dim
        self.stem = nn.Conv2d(channels, WIDTHS[0], 3, padding=1)
        outs = (*WIDTHS[1:], WIDTHS[-1])
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in zip(WIDTHS, outs, strict=True)))
        self.hidden = nn.Linear(WIDTHS[-1] * (side // _SHRINK) ** 2, HIDDEN)
        self.rows = nn.Linear(HIDDEN, tail * embed_dim)

    @classmethod
    def load(cls, path: Path, latent_shape: tuple[int, int, int], embed_dim: int) -> Self:
        """Read the file of a model with such latents and width; BackboneError for one that does not fit it."""
        refusal = f"{path} is damaged, or no tail encoder of this model; remove it, or make it anew"
        try:
            weights = {name: weight.float() for name, weight in load_file(path).items()}
        except (OSError, SafetensorError) as error:
            raise BackboneError(refusal) from error
        tail = weights.get("rows.bias", torch.empty(0)).numel() // embed_dim
        if not tail or latent_shape[1] < _SHRINK:
            raise BackboneError(refusal)
        made = cls(latent_shape[0], latent_shape[1], tail, embed_dim)
        try:
            made.load_state_dict(weights)
        except RuntimeError as error:
            raise BackboneError(refusal) from error
        check_part(made, str(path), None, strict=True)
        return made.eval().requires_grad_(False)

    def forward(self, latents: Tensor) -> Tensor:
        """[batch, channels, side, side] to [batch, tail, embed_dim]."""
        tail: Tensor = self.rows(self.seen(latents))
        return tail.view(-1, self.tail, self.embed_dim)

    def seen(self, latents: Tensor) -> Tensor:
        """[batch, channels, side, side] to [batch, features], what the tail is made of."""
        return F.silu(self.hidden(self.blocks(self.stem(latents)).flatten(1)))

    def guess(self, latents: Tensor) -> Tensor:
        """Guess the tail [tail, embed_dim], float32, on the CPU, from latents [1, channels, h, w] of any size."""
        with torch.no_grad():
            seen = F.interpolate(latents.float().cpu(), size=(self.side, self.side), mode="area")
            return self.forward(seen)[0]
