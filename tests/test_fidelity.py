"""The paper's recipe, written out once more on plain diffusers, gives the same tail and the same pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler
from PIL import Image
from torch import Tensor

import hiper
from hiper.backbones.sd import SdBackbone
from hiper.images import fit_square
from tests import tiny

STEPS = 50
CAPTION, SENTENCE = "a standing dog", "a sitting dog on the grass"


def published_fit(pipe: Any, image: Image.Image, seed: int) -> Tensor:
    """Section 3 of arXiv:2303.08767 with the settings of its experiments: N = 5, Adam 5e-3, batch 1."""
    pipe.unet.requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    with torch.no_grad():
        latent = pipe.vae.encode(pixels).latent_dist.sample(random) * pipe.vae.config.scaling_factor
        source, _ = pipe.encode_prompt(CAPTION, "cpu", 1, False)
    head, tail = source[:, :-5], source[:, -5:].clone().requires_grad_()
    adam = torch.optim.Adam([tail], lr=5e-3)
    for _ in range(STEPS):
        noise = torch.randn(latent.shape, generator=random)
        t = torch.randint(0, scheduler.config.num_train_timesteps, (1,), generator=random)
        predicted = pipe.unet(scheduler.add_noise(latent, noise, t), t, torch.cat([head, tail], dim=1)).sample
        is_v = scheduler.config.prediction_type == "v_prediction"
        loss = F.mse_loss(predicted, scheduler.get_velocity(latent, noise, t) if is_v else noise)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    fitted: Tensor = tail.detach()
    return fitted


def published_edit(pipe: Any, tail: Tensor, seeds: list[int]) -> list[Image.Image]:
    """DDIM, 50 steps, guidance 7.5, the tail times 0.8 in the conditional branch only."""
    target, empty = pipe.encode_prompt(SENTENCE, "cpu", 1, True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pictures: list[Image.Image] = pipe(
        prompt_embeds=torch.cat([target[:, :-5], 0.8 * tail], dim=1).repeat(len(seeds), 1, 1),
        negative_prompt_embeds=empty.repeat(len(seeds), 1, 1),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=50,
        guidance_scale=7.5,
    ).images
    return pictures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the fit did not lower")  # after 50 of 1000 steps it need not
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_the_paper_preset_is_the_published_algorithm(kind: tiny.Kind) -> None:
    image = tiny.picture()
    square = fit_square(image, tiny.RESOLUTION)
    expected = published_fit(tiny.pipeline(kind), square, seed=11)
    backbone = SdBackbone.from_pipeline(tiny.pipeline(kind))
    subject = hiper.Subject.from_image(image, caption=CAPTION)
    artifact = hiper.fit(backbone, subject, preset="paper", num_train_steps=STEPS, seed=11)
    tail = artifact.tensors["tail"]
    start = backbone.encode(CAPTION).token_embeddings[0, -5:]
    assert (tail - start).abs().max() > 0.01
    assert (tail - expected[0]).abs().max() < 1e-5

    result = hiper.edit(backbone, artifact, SENTENCE, seeds=[1, 2])
    pictures = published_edit(tiny.pipeline(kind), tail[None], [1, 2])
    for ours, theirs in zip(
        result.images, pictures, strict=True
    ):  # both round what another CPU adds up otherwise
        assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
