"""One more level for the autoencoder: pictures of twice the side from the same latents.

The denoiser, the tails and the readers know the latents of 64-pixel pictures. Here the decoder learns to draw 128
pixels from them, and the encoder to make them from 128 pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from training.critters.data import Pictures, details, pictures
from training.critters.loop import mixed_precision, train
from training.critters.recipe import Recipe
from training.critters.vae import build_vae, picture_tensor, reconstruction_error

ROUGHNESS = 0.1
"""Largest standard deviation of the noise on training latents, in units of their own: what a denoiser leaves."""


def enlarge(
    recipe: Recipe,
    small: AutoencoderKL,
    folder: Path,
    device: torch.device,
) -> AutoencoderKL:
    """Train an autoencoder of one more level on the latents of the model's own.

    Args:
        recipe: Sizes and durations.
        small: The model's autoencoder, frozen and on `device`.
        folder: Where pictures, latents and checkpoints lie.
        device: Where to train.

    Returns:
        The autoencoder, frozen, on `device`; its scaling factor is that of the former one.
    """
    vae = start_from(recipe, small).to(device)
    images = pictures(folder, recipe.enlarge_scenes, vae.config.sample_size)
    where = details(folder, recipe.enlarge_scenes, vae.config.sample_size)
    latents = _latents(small, images, folder, device)
    _train_decoder(recipe, vae, images, where, latents, folder, device)
    _train_encoder(recipe, vae, images, latents, folder, device)
    return vae.eval().requires_grad_(False)


def start_from(recipe: Recipe, small: AutoencoderKL) -> AutoencoderKL:
    """An autoencoder of one more level whose inner levels are those of `small` and whose first one halves the picture.

    The new first level carries the picture in three of its channels, and its strided convolution joins averaging over
    2 x 2 pixels with the first convolution of `small`, but for the row and the column that its kernel does not reach.
    """
    channels = (small.config.block_out_channels[0], *small.config.block_out_channels)
    vae = build_vae(recipe, channels, sample_size=2 * small.config.sample_size)
    vae.register_to_config(scaling_factor=small.config.scaling_factor)
    ours, theirs = vae.state_dict(), small.state_dict()
    for name, value in theirs.items():
        target = _deeper(name) if name.startswith("encoder.down_blocks") else name
        if target in ours and ours[target].shape == value.shape:
            ours[target] = value.clone()
    vae.load_state_dict(ours)
    _halve_first(vae, theirs["encoder.conv_in.weight"], theirs["encoder.conv_in.bias"])
    return vae


def _deeper(name: str) -> str:
    encoder, blocks, number, rest = name.split(".", 3)
    return f"{encoder}.{blocks}.{int(number) + 1}.{rest}"


@torch.no_grad()
def _halve_first(vae: AutoencoderKL, weight: Tensor, bias: Tensor) -> None:
    """Set the first level to averaging over 2 x 2 pixels and the former first convolution.

    Along each axis that needs the pixels -2 to 3 around an even one, and the kernels reach -1 to 3: the pixel at -1
    stands for that at -2 as well. So each colour takes four channels, an averaged and a copied one along either axis.

    Args:
        vae: The new autoencoder; at least 12 channels in its first level.
        weight: [channels, 3, 3, 3], of the former first convolution.
        bias: [channels].
    """
    average, copied = torch.tensor([0.0, 0.5, 0.5]), torch.tensor([1.0, 0.0, 0.0])
    # Where along an axis the former kernel's three taps are found: (kernel of conv_in, tap of the strided convolution).
    found = [(copied, 0), (average, 0), (average, 2)]
    first, conv_in = vae.encoder.down_blocks[0], vae.encoder.conv_in
    down = first.downsamplers[0].conv
    for layer in (conv_in, first.resnets[0].conv2, down):
        layer.weight.zero_()
        layer.bias.zero_()
    for colour in range(3):
        for y, (kernel_y, tap_y) in enumerate(found):
            for x, (kernel_x, tap_x) in enumerate(found):
                channel = 4 * colour + 2 * (y == 0) + (x == 0)
                conv_in.weight[channel, colour] = torch.outer(kernel_y, kernel_x)
                down.weight[:, channel, tap_y, tap_x] += weight[:, colour, y, x]
    down.bias.copy_(bias)


@torch.no_grad()
def _latents(small: AutoencoderKL, images: Pictures, folder: Path, device: torch.device) -> Tensor:
    """[count, channels, height, width] not scaled, float32: what `small` makes of the halved pictures."""
    path = folder / "small-latents.safetensors"
    if not path.exists():
        parts = []
        for start in range(0, len(images), 64):
            half = functional.avg_pool2d(picture_tensor(images[start : start + 64]).to(device), 2)
            parts.append(small.encode(half).latent_dist.mean.float().cpu())
        _store(path, torch.cat(parts))
    return load_file(path)["latents"]


def _store(path: Path, latents: Tensor) -> None:
    partial_path = path.with_suffix(".partial")
    save_file({"latents": latents.contiguous()}, partial_path)
    partial_path.replace(path)


def _train_decoder(
    recipe: Recipe,
    vae: AutoencoderKL,
    images: Pictures,
    where: Pictures,
    latents: Tensor,
    folder: Path,
    device: torch.device,
) -> None:
    """From roughened latents; errors on eyes, collars and edges weigh more."""
    spread = latents.std()

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(images), (recipe.enlarge_batch,), generator=generator)
        roughness = spread * ROUGHNESS * torch.rand(len(index), 1, 1, 1, generator=generator)
        z = latents[index]
        z = (z + roughness * torch.randn(z.shape, generator=generator)).to(device)
        x = picture_tensor(images[index.numpy()]).to(device)
        marks = torch.from_numpy(where[index.numpy()]).permute(0, 3, 1, 2).float().to(device) / 255
        weight = 1 + recipe.enlarge_animal_weight * marks[:, :1] + recipe.enlarge_detail_weight * marks[:, 1:]
        with mixed_precision(device):
            y = vae.decode(z).sample.float()
        value: Tensor = reconstruction_error(x, y, weight) + 0.5 * edge_error(x, y)
        return value

    model = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    train(
        "decoder",
        model,
        loss,
        steps=recipe.enlarge_decoder_steps,
        rate=recipe.enlarge_rate,
        seed=recipe.seed + 6,
        folder=folder,
        weight_decay=0.0,
    )


def edge_error(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of the differences of neighbouring pixels; both [batch, 3, height, width]."""
    return (x.diff(dim=3) - y.diff(dim=3)).abs().mean() + (x.diff(dim=2) - y.diff(dim=2)).abs().mean()


def _train_encoder(
    recipe: Recipe, vae: AutoencoderKL, images: Pictures, latents: Tensor, folder: Path, device: torch.device
) -> None:
    """Squared error to the former latents, relative to their size."""
    size = latents.square().mean()

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(images), (recipe.enlarge_batch,), generator=generator)
        x = picture_tensor(images[index.numpy()]).to(device)
        with mixed_precision(device):
            found = vae.encode(x).latent_dist.mean.float()
        value: Tensor = (found - latents[index].to(device)).square().mean() / size.to(device)
        return value

    model = nn.ModuleDict({"encoder": vae.encoder, "quant_conv": vae.quant_conv})
    train(
        "encoder",
        model,
        loss,
        steps=recipe.enlarge_encoder_steps,
        rate=recipe.enlarge_rate / 8,
        seed=recipe.seed + 7,
        folder=folder,
        weight_decay=0.0,
    )
