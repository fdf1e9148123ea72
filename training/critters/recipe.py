"""Every number of the recipe, in one place."""

from __future__ import annotations

from dataclasses import dataclass

SMALL = 64
"""Pixels a side of the pictures that all stages but the last see, which doubles them."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes and durations of the trainings; the defaults are those of the weights in the package.

    Their denoiser came to as many steps in three parts (docs/critters.md), the first without weights on details.
    """

    seed: int = 0
    scenes: int = 48_000
    """Training scenes; their seeds are 0 to scenes - 1, evaluation uses seeds from 10**9."""

    text_width: int = 128
    text_layers: int = 3
    text_steps: int = 800
    text_batch: int = 128
    text_rate: float = 1e-3

    vae_channels: tuple[int, ...] = (24, 48, 96)
    latent_channels: int = 10
    vae_steps: int = 3400
    vae_batch: int = 12
    vae_rate: float = 2e-3
    kl_weight: float = 1e-4

    enlarge_scenes: int = 8_000
    """Scenes that the autoencoder of one more level sees."""
    enlarge_batch: int = 8
    enlarge_rate: float = 2e-3
    enlarge_decoder_steps: int = 8_000
    enlarge_encoder_steps: int = 5_000
    enlarge_animal_weight: float = 0.5
    """Added weight of errors on the animal, relative to the background's 1."""
    enlarge_detail_weight: float = 3.0
    """Added weight of errors on eyes and collar."""

    unet_channels: tuple[int, ...] = (64, 128, 160)
    unet_heads: int = 2
    unet_steps: int = 18_800
    unet_batch: int = 32
    unet_rate: float = 2e-3
    caption_dropout: float = 0.1
    identity_share: float = 0.8
    """Share of training captions that name some of the identity, 0 to 1."""
    noise_bias: float = 0.7
    """Timesteps are drawn as u ** noise_bias, u uniform: below 1 favours heavy noise, where words decide."""

    animal_weight: float = 3.0
    """Added weight of errors on the animal, relative to the background's 1."""
    detail_weight: float = 7.0
    """Added weight of errors on eyes and collar."""

    tail: int = 5
    """Rows that the tail encoder guesses."""
    tail_pairs: int = 24_000
    tail_sight_steps: int = 2_500
    tail_sight_batch: int = 64
    tail_steps: int = 2_400
    tail_batch: int = 32
    tail_rate: float = 2e-3

    train_timesteps: int = 1000
    prediction_type: str = "v_prediction"
