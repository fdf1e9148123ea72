"""The denoiser: SD's UNet class, v-prediction, captions dropped one time in ten for guidance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional
from training.critters.data import Pictures
from training.critters.loop import mixed_precision, train
from training.critters.recipe import SMALL, Recipe
from training.critters.text import tokens
from transformers import CLIPTextModel, CLIPTokenizer

from hiper.critters import draw_scene, training_caption


def build_unet(recipe: Recipe) -> UNet2DConditionModel:
    """An untrained denoiser; `attention_head_dim` is, for historical reasons, the number of heads."""
    torch.manual_seed(recipe.seed + 2)
    return UNet2DConditionModel(
        sample_size=SMALL // 2 ** (len(recipe.vae_channels) - 1),
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        layers_per_block=1,
        block_out_channels=recipe.unet_channels,
        down_block_types=("CrossAttnDownBlock2D",) * len(recipe.unet_channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(recipe.unet_channels),
        cross_attention_dim=recipe.text_width,
        attention_head_dim=recipe.unet_heads,
        norm_num_groups=16,
    )


def noise_scheduler(recipe: Recipe) -> DDPMScheduler:
    """SD's noise schedule."""
    return DDPMScheduler(
        num_train_timesteps=recipe.train_timesteps,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=recipe.prediction_type,
        clip_sample=False,
    )


def denoising_error(
    recipe: Recipe,
    scheduler: DDPMScheduler,
    x: Tensor,
    details: Pictures,
    generator: torch.Generator,
    device: torch.device,
    predict: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Mean squared error of `predict(noisy, t)` for clean latents x [batch, channels, side, side], a scalar.

    Timesteps are stratified over the batch; errors weigh as much as `_importance` says of `details`.
    """
    count = len(x)
    noise = torch.randn(x.shape, generator=generator)
    stratum = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = (stratum**recipe.noise_bias * recipe.train_timesteps).long()
    noisy = scheduler.add_noise(x, noise, t)
    target = scheduler.get_velocity(x, noise, t) if recipe.prediction_type == "v_prediction" else noise
    with mixed_precision(device):
        predicted = predict(noisy.to(device), t.to(device))
    weight = _importance(recipe, details, x.shape[-1]).to(device)
    error: Tensor = ((predicted.float() - target.to(device)).square() * weight).mean() / weight.mean()
    return error


def _importance(recipe: Recipe, details: Pictures, side: int) -> Tensor:
    """[batch, 1, side, side], 1 or more: an eye is a hundredth of the picture and as much of an identity as a coat."""
    where = functional.adaptive_avg_pool2d(torch.from_numpy(details).permute(0, 3, 1, 2).float() / 255, side)
    return 1 + recipe.animal_weight * where[:, :1] + recipe.detail_weight * where[:, 1:]


def train_unet(
    recipe: Recipe,
    latents: Tensor,
    details: Pictures,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    folder: Path,
    device: torch.device,
    *,
    start: UNet2DConditionModel | None = None,
) -> UNet2DConditionModel:
    """Train on scaled latents [scenes, channels, height, width] with a fresh caption at every visit.

    `details` (see `data.details`) says where errors weigh more; `start` is a denoiser to go on from.
    """
    unet = (start or build_unet(recipe)).to(device)
    if device.type == "cpu":
        unet.set_attn_processor(
            AttnProcessor()
        )  # plain matrix products: a third less time than the fused backward
    scheduler = noise_scheduler(recipe)
    scenes = [draw_scene(seed) for seed in range(len(latents))]
    encoder = encoder.to(device)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        count = recipe.unet_batch
        index = torch.randint(len(latents), (count,), generator=generator)
        rng = np.random.default_rng([recipe.seed, 2, step])
        captions = [
            "" if rng.random() < recipe.caption_dropout
            else training_caption(scenes[i], rng, identity_share=recipe.identity_share)
            for i in index.tolist()
        ]  # fmt: skip

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            with torch.no_grad():
                rows = encoder(tokens(tokenizer, captions).to(device)).last_hidden_state
            predicted: Tensor = unet(noisy, t, rows).sample
            return predicted

        x = latents[index].float()
        return denoising_error(recipe, scheduler, x, details[index.numpy()], generator, device, predict)

    train(
        "unet",
        unet,
        loss,
        steps=recipe.unet_steps,
        rate=recipe.unet_rate,
        seed=recipe.seed + 2,
        folder=folder,
    )
    return unet.eval().requires_grad_(False)
