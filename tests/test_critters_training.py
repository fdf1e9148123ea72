"""The training recipe: the loop resumes bit for bit, and the stages end in a folder that plain diffusers runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from hiper.critters.training.__main__ import run
from hiper.critters.training.loop import train
from hiper.critters.training.recipe import Recipe

TINY = Recipe(
    scenes=12,
    text_width=32,
    text_layers=1,
    text_steps=2,
    text_batch=4,
    vae_channels=(8, 8, 8),
    vae_steps=2,
    vae_batch=2,
    unet_channels=(16, 16),
    unet_steps=2,
    unet_batch=2,
)


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
def test_the_recipe_ends_in_a_folder_that_plain_diffusers_runs(tmp_path: Path) -> None:
    folder = run(TINY, tmp_path, torch.device("cpu"))
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a sitting cat", num_inference_steps=1, output_type="np").images
    assert picture.shape == (1, 64, 64, 3)
    again = run(replace(TINY, unet_steps=2), tmp_path, torch.device("cpu"))
    assert again == folder
