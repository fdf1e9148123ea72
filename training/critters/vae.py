"""The autoencoder: 64 x 64 pixels to 16 x 16 latents and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from training.critters.data import Pictures
from training.critters.loop import mixed_precision, train
from training.critters.recipe import SMALL, Recipe


def build_vae(
    recipe: Recipe, channels: tuple[int, ...] | None = None, sample_size: int = SMALL
) -> AutoencoderKL:
    """An untrained autoencoder of SD's class; `channels` a level, those of the recipe where none are given."""
    channels = channels or recipe.vae_channels
    levels = len(channels)
    torch.manual_seed(recipe.seed + 1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        latent_channels=recipe.latent_channels,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=sample_size,
        mid_block_add_attention=False,
    )


def picture_tensor(pictures: Pictures) -> Tensor:
    """[count, height, width, 3] bytes -> [count, 3, height, width] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


_LUMA_CHROMA = torch.tensor([[0.577, 0.577, 0.577], [0.707, 0.0, -0.707], [-0.408, 0.816, -0.408]])
"""Orthogonal axes: brightness, orange-blue, green-magenta."""
_WEIGHTS = torch.tensor([1.0, 2.0, 2.0])
"""Colour errors count double: they are small in RGB, learnt last, and half of an identity."""


def reconstruction_error(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Absolute plus squared error along brightness and colour axes; both [batch, 3, height, width].

    `weight` [batch, 1, height, width] says how much each pixel's error counts, relative to the others'.
    """
    axes = (_LUMA_CHROMA * _WEIGHTS[:, None]).to(x.device)
    error = torch.einsum("kc,bchw->bkhw", axes, y - x)
    if weight is not None:
        return ((error.abs() + error.square()) * weight).mean() / weight.mean()
    return error.abs().mean() + error.square().mean()


def train_vae(recipe: Recipe, pictures: Pictures, folder: Path, device: torch.device) -> AutoencoderKL:
    """Reconstruction plus a light Kullback-Leibler term; sets `scaling_factor` to 1 / std of the latents."""
    vae = build_vae(recipe).to(device)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(pictures), (recipe.vae_batch,), generator=generator).numpy()
        x = picture_tensor(pictures[np.sort(index)]).to(device)
        with mixed_precision(device):
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            y = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        value: Tensor = reconstruction_error(x, y) + recipe.kl_weight * kl
        return value

    train("vae", vae, loss, steps=recipe.vae_steps, rate=recipe.vae_rate, seed=recipe.seed + 1, folder=folder)
    vae.eval().requires_grad_(False)
    latents = encode(vae, pictures[:2000], device)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Pictures, device: torch.device) -> Tensor:
    """[count, channels, height, width] float32 posterior means, not scaled, on the CPU."""
    parts = []
    for start in range(0, len(pictures), 64):
        with mixed_precision(device):
            parts.append(
                vae.encode(picture_tensor(pictures[start : start + 64]).to(device))
                .latent_dist.mean.float()
                .cpu()
            )
    return torch.cat(parts)


def stored_latents(path: Path, vae: AutoencoderKL, pictures: Pictures, device: torch.device) -> Tensor:
    """[count, channels, height, width] scaled, half precision; computed once and kept at `path`."""
    if not path.exists():
        latents = encode(vae, pictures, device) * vae.config.scaling_factor
        partial = path.with_suffix(".partial")
        save_file({"latents": latents.half().contiguous()}, partial)
        partial.replace(path)
    return load_file(path)["latents"]
