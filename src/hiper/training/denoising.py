"""The model's own training loss on one picture, as an objective over whatever is learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, final

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from hiper.backbones import Backbone
from hiper.conditioning import Conditioning
from hiper.errors import ImageError
from hiper.images import fit_square
from hiper.seeds import generator as new_generator
from hiper.training.noise_levels import Sampling, draw_levels, spread_levels

EVALUATIONS = 8
"""Few: twice so many forward passes are what a short fit costs beside its steps."""
AT_ONCE = 4
"""Timesteps in a call of an evaluation, at least: half of what drawing four pictures under guidance takes."""
_EVALUATION_SEED = 2303_08767


def looked_at_once(batch: int) -> int:
    """Return how many timesteps an evaluation takes in a call, where a step takes `batch`."""
    return max(batch, AT_ONCE)


@final
@dataclass(frozen=True, kw_only=True)
class Denoising:
    """Mean squared error of the denoiser on fixed latents (the paper, eq. 2).

    Attributes:
        backbone: The model.
        latents: Of the picture, [1, c, h, w].
        conditioning: Makes the denoiser's conditioning from the parameters.
        batch: Timesteps that a step draws.
        bounds: They are drawn from [first, last).
        sampling: How they are drawn; see `draw_levels`.
        weight: Of each cell, [1, 1, h, w] with mean 1; None for all alike.
    """

    backbone: Backbone
    latents: Tensor
    conditioning: Callable[[Mapping[str, Tensor]], Conditioning]
    batch: int
    bounds: tuple[int, int]
    sampling: Sampling
    weight: Tensor | None = None

    def loss(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Draw noise and timesteps; return the error, a scalar."""
        return self._error(parameters, *self.draw(generator))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw noise [batch, c, h, w] and timesteps [batch]."""
        noise = torch.randn(self.batch, *self.latents.shape[1:], generator=generator)
        return noise, draw_levels(generator, self.batch, self.bounds, self.sampling)

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Return the weighted mean squared error of [batch, c, h, w], a scalar."""
        if self.weight is None:
            return F.mse_loss(predicted, target)
        return ((predicted - target).square() * self.weight).mean()

    def evaluate(self, parameters: Mapping[str, Tensor]) -> float:
        """Return the error on 8 fixed pairs of noise and timestep, spread over the range."""
        noise = torch.randn(EVALUATIONS, *self.latents.shape[1:], generator=new_generator(_EVALUATION_SEED))
        t = spread_levels(EVALUATIONS, self.bounds)
        at_once = looked_at_once(self.batch)
        # torch's FLOP counter cannot follow leaves that ask for a gradient where none is recorded
        still = {name: parameter.detach() for name, parameter in parameters.items()}
        with torch.no_grad():
            errors = [
                self._error(still, some, levels) * len(levels)
                for some, levels in zip(torch.split(noise, at_once), torch.split(t, at_once), strict=True)
            ]
        return float(torch.stack(errors).sum() / EVALUATIONS)

    def _error(self, parameters: Mapping[str, Tensor], noise: Tensor, t: Tensor) -> Tensor:
        diffused = self.backbone.add_noise(self.latents, noise, t)
        predicted = self.backbone.predict(diffused.noisy, t, self.conditioning(parameters))
        return self.distance(predicted, diffused.target)


def mask_weight(mask: PIL.Image.Image, backbone: Backbone, how: Literal["crop", "pad"]) -> Tensor:
    """Bring a mask to the latent's size.

    Args:
        mask: Mode L, 255 where the subject is.
        backbone: Whose latents are meant.
        how: How the picture is made square; see `fit_square`.

    Returns:
        [1, 1, h, w], float32, mean 1.

    Raises:
        ImageError: The mask selects nothing of the square that the model sees.
    """
    side, (_, h, w) = backbone.resolution, backbone.latent_shape
    pixels = torch.tensor(list(fit_square(mask, side, how=how).tobytes()), dtype=torch.float32)
    weight = F.interpolate(pixels.view(1, 1, side, side), size=(h, w), mode="area")
    if not bool(weight.any()):
        raise ImageError("the mask selects nothing inside the square the model sees; paint the subject white")
    return (weight / weight.mean()).to(backbone.device)
