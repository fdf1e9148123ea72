"""The text encoder: trained to tell captions apart by what they say of a scene, then frozen, as CLIP is in SD."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training.critters.loop import mixed_precision, train
from training.critters.recipe import Recipe
from training.critters.tokenizer import LENGTH
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hiper.critters import Scene, training_caption, world

_FIELDS = (world.SPECIES, world.POSES, world.BACKGROUNDS, world.STYLES)
LONGEST = 32
"""Rows seen in training: no caption is longer, and a causal encoder's earlier rows do not depend on later ones."""
WORD_STD = 0.2
"""Of the untrained word vectors: CLIP's 0.02 drowns in a narrow model, and rows of different words come out alike."""
GROUP = 8
_IDENTITY_FIELDS = (tuple(world.COLOURS), tuple(world.COLOURS), world.PATTERNS, world.COLLARS, world.EYES)


def build_text_encoder(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text model with the tokenizer's vocabulary and 77 rows."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.text_width,
        intermediate_size=4 * recipe.text_width,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=recipe.text_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(recipe.seed)
    encoder = CLIPTextModel(config)
    nn.init.normal_(encoder.get_input_embeddings().weight, std=WORD_STD)
    return encoder


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """[batch, 77] token numbers, padded and truncated as the pipeline does."""
    encoded = tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    ids: Tensor = encoded.input_ids
    return ids


def scene_vector(scene: Scene) -> Tensor:
    """[attributes] one-hot description of everything a caption can say."""
    who = scene.identity
    values = (scene.species, scene.pose, scene.background, scene.style)
    hidden = (who.primary, who.secondary, who.pattern, who.collar, who.eyes)
    pairs = zip((*_FIELDS, *_IDENTITY_FIELDS), (*values, *hidden), strict=True)
    return torch.cat(
        [F.one_hot(torch.tensor(names.index(value)), len(names)) for names, value in pairs]
    ).float()


class _Contrast(nn.Module):
    """Caption tower and scene tower of the contrastive objective (CLIP, arXiv:2103.00020, figure 3)."""

    def __init__(self, encoder: CLIPTextModel, attributes: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = nn.Linear(width, width, bias=False)
        self.scene = nn.Sequential(nn.Linear(attributes, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, ids: Tensor, scenes: Tensor) -> Tensor:
        text = F.normalize(self.project(self.encoder(ids).pooler_output), dim=-1)
        logits = text @ F.normalize(self.scene(scenes), dim=-1).T * self.scale.exp().clamp(max=50)
        target = torch.arange(len(ids), device=ids.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_text_encoder(
    recipe: Recipe, tokenizer: CLIPTokenizer, folder: Path, device: torch.device
) -> CLIPTextModel:
    """Contrast captions with their scenes for `recipe.text_steps` steps of `recipe.text_batch` scenes.

    Half of a batch are groups of one scene with different animals, which only words of identity tell apart: without
    them pose and place suffice, and the rows of two colours stay alike.
    """
    encoder = build_text_encoder(recipe, tokenizer)
    scenes = [world.draw_scene(seed) for seed in range(min(recipe.scenes, 8000))]
    attributes = scene_vector(scenes[0]).numel()
    model = _Contrast(encoder, attributes, recipe.text_width).to(device)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(scenes), (recipe.text_batch,), generator=generator)
        grouped = recipe.text_batch // 2
        place = torch.cat([index[:grouped:GROUP].repeat_interleave(GROUP)[:grouped], index[grouped:]])
        batch = [
            replace(scenes[where], identity=scenes[who].identity)
            for where, who in zip(place.tolist(), index.tolist(), strict=True)
        ]
        rng = np.random.default_rng([recipe.seed, 1, step])
        captions = [training_caption(scene, rng, identity_share=recipe.identity_share) for scene in batch]
        vectors = torch.stack([scene_vector(scene) for scene in batch])
        ids = tokens(tokenizer, captions)[:, :LONGEST]
        with mixed_precision(device):
            value: Tensor = model(ids.to(device), vectors.to(device))
        return value

    train(
        "text", model, loss, steps=recipe.text_steps, rate=recipe.text_rate, seed=recipe.seed, folder=folder
    )
    return encoder.eval().requires_grad_(False)
