"""The autoencoder: 128 x 128 pixels to 16 x 16 latents and back."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from hiper.critters.render import SIZE
from hiper.critters.training.data import Pictures
from hiper.critters.training.loop import train
from hiper.critters.training.recipe import Recipe


def build_vae(recipe: Recipe) -> AutoencoderKL:
    """An untrained autoencoder of SD's class."""
    levels = len(recipe.vae_channels)
    torch.manual_seed(recipe.seed + 1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=recipe.vae_channels,
        latent_channels=recipe.latent_channels,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def batch(pictures: Pictures, count: int, side: int, generator: torch.Generator) -> Tensor:
    """[count, 3, side, side] random crops in [-1, 1]."""
    index = torch.randint(len(pictures), (count,), generator=generator).tolist()
    corners = torch.randint(SIZE - side + 1, (count, 2), generator=generator).tolist()
    crops = [
        torch.from_numpy(pictures[i, y : y + side, x : x + side].copy())
        for i, (y, x) in zip(index, corners, strict=True)
    ]
    return torch.stack(crops).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(recipe: Recipe, pictures: Pictures, folder: Path, device: torch.device) -> AutoencoderKL:
    """Absolute plus squared error plus a light Kullback-Leibler term; sets `scaling_factor` to 1 / std of the latents."""
    vae = build_vae(recipe).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(step: int, generator: torch.Generator) -> Tensor:
        whole = step >= 0.7 * recipe.vae_steps
        count = max(1, recipe.vae_batch // 4) if whole else recipe.vae_batch
        x = batch(pictures, count, SIZE if whole else recipe.vae_crop, generator)
        x = x.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            y = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return (y - x).abs().mean() + (y - x).square().mean() + recipe.kl_weight * kl

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
        x = torch.from_numpy(pictures[start : start + 64].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(device.type, torch.bfloat16):
            parts.append(vae.encode(x.to(device)).latent_dist.mean.float().cpu())
    return torch.cat(parts)
