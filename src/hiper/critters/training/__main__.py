"""Train the embedded model from scratch with one command.

    python -m hiper.critters.training --out DIR [--start FOLDER] [--device cuda] [--scenes N] [--unet-steps N] ...

Everything lands in DIR: the pictures, a checkpoint per stage, and ``DIR/weights``, an ordinary diffusers folder. Run
the same command again after a kill and it goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from hiper.critters.training.assemble import assemble
from hiper.critters.training.data import details, pictures
from hiper.critters.training.recipe import Recipe
from hiper.critters.training.tail import add_tail_encoder
from hiper.critters.training.text import train_text_encoder
from hiper.critters.training.tokenizer import build_tokenizer
from hiper.critters.training.unet import train_unet
from hiper.critters.training.vae import stored_latents, train_vae


def main() -> None:
    """Parse, then run the stages in order; a finished stage only reloads its checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m hiper.critters.training", description="Train the embedded model."
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for pictures, checkpoints and weights"
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="diffusers folder to go on from: its denoiser is trained, its encoders kept",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for field in fields(Recipe):
        if isinstance(field.default, (int, float)):
            parser.add_argument(
                f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
            )
    arguments = vars(parser.parse_args())
    folder, start = arguments.pop("out"), arguments.pop("start")
    device = torch.device(arguments.pop("device"))
    if start is not None and not (start / "model_index.json").is_file():
        parser.error(f"--start {str(start)!r} has no model_index.json; name a diffusers folder")
    run(Recipe(**arguments), folder, device, start)


def run(recipe: Recipe, folder: Path, device: torch.device, start: Path | None = None) -> Path:
    """All stages, or the last two where there is a folder to start from; returns the weights' folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    images = pictures(folder, recipe.scenes)
    if start is None:
        encoder = train_text_encoder(recipe, tokenizer, folder, device)
        vae, unet = train_vae(recipe, images, folder, device), None
    else:
        parts = StableDiffusionPipeline.from_pretrained(start, dtype=torch.float32, local_files_only=True)
        encoder, vae, unet = parts.text_encoder, parts.vae.to(device), parts.unet
    where = details(folder, recipe.scenes)
    latents = stored_latents(folder / "latents.safetensors", vae, images, device)
    unet = train_unet(recipe, latents, where, encoder, tokenizer, folder, device, start=unet)
    fresh = build_tokenizer()  # the other one remembers how it padded
    weights = assemble(recipe, fresh, encoder, vae, unet, folder / "weights")
    add_tail_encoder(recipe, latents, folder, weights, device)
    return weights


if __name__ == "__main__":
    main()
