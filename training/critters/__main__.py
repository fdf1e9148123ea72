"""Train the embedded model from scratch with one command.

    python -m training.critters --out DIR [--start FOLDER] [--device cuda] [--scenes N] [--unet-steps N] ...
    python -m training.critters --out DIR --enlarge FOLDER     # one more level for that model's autoencoder alone

Everything lands in DIR: the pictures, a checkpoint per stage, and ``DIR/weights``, an ordinary diffusers folder. Run
the same command again after a kill and it goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import fields
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from training.critters.assemble import assemble
from training.critters.data import details, pictures
from training.critters.enlarge import enlarge
from training.critters.recipe import Recipe
from training.critters.tail import add_tail_encoder
from training.critters.text import train_text_encoder
from training.critters.tokenizer import build_tokenizer
from training.critters.unet import train_unet
from training.critters.vae import stored_latents, train_vae


def main() -> None:
    """Parse, then run the stages in order; a finished stage only reloads its checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m training.critters", description="Train the embedded model."
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for pictures, checkpoints and weights"
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="diffusers folder to go on from: its denoiser is trained, its encoders kept",
    )
    parser.add_argument(
        "--enlarge",
        type=Path,
        help="diffusers folder whose autoencoder gets one more level; nothing else is trained",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for field in fields(Recipe):
        if isinstance(field.default, (int, float)):
            parser.add_argument(
                f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
            )
    arguments = vars(parser.parse_args())
    folder, start, small = arguments.pop("out"), arguments.pop("start"), arguments.pop("enlarge")
    device = torch.device(arguments.pop("device"))
    for name, model in (("--start", start), ("--enlarge", small)):
        if model is not None and not (model / "model_index.json").is_file():
            parser.error(f"{name} {str(model)!r} has no model_index.json; name a diffusers folder")
    if small is not None:
        folder.mkdir(parents=True, exist_ok=True)
        enlarge_model(Recipe(**arguments), small, folder, device)
    else:
        run(Recipe(**arguments), folder, device, start)


def run(recipe: Recipe, folder: Path, device: torch.device, start: Path | None = None) -> Path:
    """All stages, or the last two where there is a folder to start from; returns the weights' folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    if start is None:
        images = pictures(folder, recipe.scenes)
        encoder = train_text_encoder(recipe, tokenizer, folder, device)
        vae, unet = train_vae(recipe, images, folder, device), None
    else:
        parts = StableDiffusionPipeline.from_pretrained(start, dtype=torch.float32, local_files_only=True)
        encoder, vae, unet = parts.text_encoder, parts.vae.to(device), parts.unet
        images = pictures(folder, recipe.scenes, vae.config.sample_size)
    where = details(folder, recipe.scenes)
    latents = stored_latents(folder / "latents.safetensors", vae, images, device)
    unet = train_unet(recipe, latents, where, encoder, tokenizer, folder, device, start=unet)
    fresh = build_tokenizer()  # the other one remembers how it padded
    weights = assemble(recipe, fresh, encoder, vae, unet, folder / "weights")
    add_tail_encoder(recipe, latents, folder, weights, device)
    return enlarge_model(recipe, weights, folder, device) if start is None else weights


def enlarge_model(recipe: Recipe, small: Path, folder: Path, device: torch.device) -> Path:
    """Copy the model in `small` with an autoencoder of one more level to ``folder/weights-128``, which is returned."""
    former = AutoencoderKL.from_pretrained(small / "vae", torch_dtype=torch.float32, local_files_only=True)
    vae = enlarge(recipe, former.to(device).eval().requires_grad_(False), folder, device)
    weights = folder / f"weights-{vae.config.sample_size}"
    shutil.copytree(small, weights, dirs_exist_ok=True)
    vae.cpu().half().save_pretrained(weights / "vae")
    return weights


if __name__ == "__main__":
    main()
