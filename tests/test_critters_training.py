"""The training recipe: the loop resumes bit for bit, and the stages end in a folder that plain diffusers runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor, nn
from training.critters.__main__ import run
from training.critters.data import details
from training.critters.enlarge import start_from
from training.critters.loop import train
from training.critters.recipe import SMALL, Recipe
from training.critters.vae import build_vae

import hiper
from hiper.critters import draw_scene, render, subject_mask

TINY = Recipe(
    scenes=12,
    text_width=32,
    text_layers=1,
    text_steps=2,
    text_batch=4,
    vae_channels=(16, 16, 16),
    vae_steps=2,
    vae_batch=2,
    enlarge_scenes=4,
    enlarge_batch=2,
    enlarge_decoder_steps=2,
    enlarge_encoder_steps=2,
    unet_channels=(16, 16),
    unet_steps=2,
    unet_batch=2,
    tail_pairs=4,
    tail_sight_steps=2,
    tail_sight_batch=4,
    tail_steps=2,
    tail_batch=2,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the whole recipe has been run; its model is in the folder that `run` returns."""
    work = tmp_path_factory.mktemp("trained")
    run(TINY, work, torch.device("cpu"))
    return work


class _Killed(Exception):
    pass


def _train(folder: Path, *, kill_at: int | None = None) -> Tensor:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        if step == kill_at:
            raise _Killed
        value: Tensor = model(torch.randn(8, 4, generator=generator)).square().mean()
        return value

    train("line", model, loss, steps=9, rate=1e-2, seed=3, folder=folder, every_seconds=0)
    return model.weight.detach().clone()


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    undisturbed = _train(whole)
    with pytest.raises(_Killed):
        _train(parts, kill_at=5)
    assert torch.equal(_train(parts), undisturbed)


@pytest.mark.slow
def test_the_recipe_ends_in_a_folder_that_plain_diffusers_runs(trained: Path) -> None:
    folder = run(TINY, trained, torch.device("cpu"))
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a sitting cat", num_inference_steps=1, output_type="np").images
    assert picture.shape == (1, 128, 128, 3)
    encoder = hiper.load_backbone(folder).tail_encoder
    assert encoder is not None
    assert encoder.guess(torch.zeros(1, 10, 16, 16)).shape == (TINY.tail, TINY.text_width)


@pytest.mark.slow
def test_a_training_goes_on_from_a_folder(trained: Path, tmp_path: Path) -> None:
    first = run(TINY, trained, torch.device("cpu"))
    untouched = run(replace(TINY, unet_steps=0), tmp_path / "second", torch.device("cpu"), first)
    trained = run(TINY, tmp_path / "third", torch.device("cpu"), first)
    for part in ("text_encoder/model", "vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model"):
        before, same, after = (
            load_file(folder / f"{part}.safetensors") for folder in (first, untouched, trained)
        )
        assert all(torch.equal(before[key], same[key]) for key in before)
        assert all(torch.equal(before[key], after[key]) for key in before) == (not part.startswith("unet"))


def test_an_enlarged_encoder_starts_from_the_latents_of_the_halved_picture() -> None:
    small = build_vae(TINY).requires_grad_(False)
    large = start_from(TINY, small).requires_grad_(False)
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    doubled = picture.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = small.encode(picture).latent_dist.mean
    torch.testing.assert_close(large.encode(doubled).latent_dist.mean, expected, atol=1e-4, rtol=1e-4)
    assert large.decode(expected).sample.shape == doubled.shape


@pytest.mark.slow
def test_details_are_where_the_picture_changes_with_eyes_and_collar(tmp_path: Path) -> None:
    count = 12
    for seed, found in enumerate(details(tmp_path, count)):
        scene = replace(draw_scene(seed), style="drawing", background="studio")
        animal, own = found[..., 0] > 127, np.asarray(subject_mask(scene, SMALL)) > 127
        assert (animal & own).sum() > 0.94 * (animal | own).sum()  # pixels at the rim may differ
        pictures = []
        for eyes, collar in (("black", "red"), ("blue", "green")):
            who = replace(scene.identity, eyes=eyes, collar=collar)
            pictures.append(np.asarray(render(replace(scene, identity=who), SMALL), float))
        changed = np.abs(pictures[0] - pictures[1]).sum(-1)
        assert changed.any()
        assert changed[found[..., 1] > 0].sum() > 0.94 * changed.sum()
