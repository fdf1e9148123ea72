"""The tail encoder, trained through the frozen denoiser: from one picture of an animal to another of the same one."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from training.critters.data import counterpart, counterpart_details, counterparts
from training.critters.loop import mixed_precision, train
from training.critters.readers import labels, mirrored
from training.critters.recipe import Recipe
from training.critters.text import tokens
from training.critters.unet import denoising_error, noise_scheduler
from training.critters.vae import stored_latents

from hiper.backbones import FILE, TailEncoder
from hiper.critters import FIELDS, bare_caption, draw_scene


def add_tail_encoder(
    recipe: Recipe, sources: Tensor, folder: Path, weights: Path, device: torch.device
) -> None:
    """Train one for the model in `weights` and put it there, fp16.

    sources: latents [scenes, channels, side, side] of the scenes 0, 1, ... It sees those, and what the denoiser makes
    of its rows is compared with each scene's counterpart, whose bare caption stands before them. They are as long as
    the caption's own last rows, times a factor from 0.8, the strength of an edit, to 1.
    """
    parts = StableDiffusionPipeline.from_pretrained(weights, dtype=torch.float32, local_files_only=True)
    unet = parts.unet.to(device).requires_grad_(False)
    unet.set_attn_processor(AttnProcessor())  # see train_unet
    encoder, scheduler = parts.text_encoder.to(device).requires_grad_(False), noise_scheduler(recipe)
    pairs = min(recipe.tail_pairs, len(sources))
    pictures = counterparts(folder, pairs)
    targets = stored_latents(folder / "counterparts.safetensors", parts.vae.to(device), pictures, device)
    details = counterpart_details(folder, pairs)
    captions = [bare_caption(counterpart(seed)) for seed in range(pairs)]
    torch.manual_seed(recipe.seed + 5)
    model = TailEncoder(sources.shape[1], sources.shape[-1], recipe.tail, recipe.text_width).to(device)
    _learn_to_see(recipe, model, sources, folder, device)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        count = recipe.tail_batch
        index = torch.randint(pairs, (count,), generator=generator)

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            strength = 0.8 + 0.2 * torch.rand(count, 1, 1, generator=generator)
            words = tokens(parts.tokenizer, [captions[i] for i in index.tolist()]).to(device)
            with torch.no_grad():
                encoded = encoder(words).last_hidden_state.float()
            head, own = encoded[:, : -recipe.tail], encoded[:, -recipe.tail :]
            rows = model(mirrored(sources[index], generator).float().to(device)).float()
            rows = rows * (own.norm(dim=2, keepdim=True) / rows.norm(dim=2, keepdim=True))
            predicted: Tensor = unet(noisy, t, torch.cat([head, rows * strength.to(device)], 1)).sample
            return predicted

        x = targets[index].float()
        return denoising_error(recipe, scheduler, x, details[index.numpy()], generator, device, predict)

    train(
        "tail-encoder",
        model,
        loss,
        steps=recipe.tail_steps,
        rate=recipe.tail_rate,
        seed=recipe.seed + 5,
        folder=folder,
        ema=0.99,
    )
    state = {name: weight.detach().cpu().half().contiguous() for name, weight in model.state_dict().items()}
    save_file(state, weights / FILE)


def _learn_to_see(
    recipe: Recipe, model: TailEncoder, sources: Tensor, folder: Path, device: torch.device
) -> None:
    """Train all but the last layer to tell identities apart, which costs little: the denoiser is not asked."""
    truth = labels([draw_scene(seed) for seed in range(len(sources))], "identity")
    sizes = [len(values) for values in FIELDS["identity"].values()]
    heads = nn.Linear(model.hidden.out_features, sum(sizes))

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(sources), (recipe.tail_sight_batch,), generator=generator)
        with mixed_precision(device):
            said = heads(model.seen(mirrored(sources[index], generator).float().to(device)))
        errors = [
            functional.cross_entropy(some, true[index].to(device))
            for true, some in zip(truth.values(), said.float().split(sizes, 1), strict=True)
        ]
        return torch.stack(errors).sum()

    train(
        "tail-encoder-sight",
        nn.ModuleList([model.stem, model.blocks, model.hidden, heads]).to(device),
        loss,
        steps=recipe.tail_sight_steps,
        rate=recipe.tail_rate,
        seed=recipe.seed + 6,
        folder=folder,
        ema=0.99,
    )
