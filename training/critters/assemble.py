"""Put the four parts into one diffusers folder, fp16."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from training.critters.recipe import Recipe
from training.critters.unet import noise_scheduler
from transformers import CLIPTextModel, CLIPTokenizer


def assemble(
    recipe: Recipe,
    tokenizer: CLIPTokenizer,
    encoder: CLIPTextModel,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    folder: Path,
) -> Path:
    """Save a `StableDiffusionPipeline` that plain diffusers loads by ``from_pretrained(folder)``."""
    scheduler = DDIMScheduler.from_config(
        noise_scheduler(recipe).config, set_alpha_to_one=False, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae=vae.cpu().half(),
        text_encoder=encoder.cpu().half(),
        tokenizer=tokenizer,
        unet=unet.cpu().half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
