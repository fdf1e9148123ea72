"""SDEdit, DDIM inversion and null-text inversion against diffusers' own code and a short transcription."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionImg2ImgPipeline
from torch import Tensor

import hiper
from hiper.backbones.sd import SdBackbone
from hiper.conditioning import Conditioning
from hiper.errors import ArtifactError, HiperWarning, OptionError
from hiper.images import Subject
from hiper.methods.ddim_inversion import TRAJECTORY
from hiper.methods.inversion import levels
from hiper.methods.null_text import NULLS
from hiper.methods.sdedit import LATENTS
from hiper.seeds import generator
from tests import tiny

CAPTION, SENTENCE = "a standing dog", "a sitting dog"


def through_the_vae(backbone: SdBackbone, latents: Tensor) -> bytes:
    return backbone.decode(latents)[0].tobytes()


@pytest.mark.parametrize("method", ["sdedit", "ddim-inversion"])
def test_strength_0_is_the_picture_through_the_vae(sd1: SdBackbone, subject: Subject, method: str) -> None:
    artifact = hiper.fit(sd1, subject, method=method, num_inference_steps=2)
    latents = next(iter(artifact.tensors.values()))[:1]
    (image,) = hiper.edit(sd1, artifact, SENTENCE, strength=0.0).images
    assert image.tobytes() == through_the_vae(sd1, latents)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_sdedit_is_the_library_s_img2img(kind: tiny.Kind, subject: Subject) -> None:
    backbone = SdBackbone.from_pipeline(tiny.pipeline(kind))
    artifact = hiper.fit(backbone, subject, method="sdedit", num_inference_steps=10, guidance_scale=3.0)
    result = hiper.edit(backbone, artifact, SENTENCE, seeds=[5, 6], strength=0.6)
    parts = {**tiny.pipeline(kind).components, "image_encoder": None}
    img2img = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    img2img.scheduler = DDIMScheduler.from_config(
        img2img.scheduler.config, clip_sample=False, set_alpha_to_one=False
    )
    img2img.set_progress_bar_config(disable=True)
    for image, seed in zip(result.images, result.seeds, strict=True):
        expected = img2img(
            SENTENCE,
            image=artifact.tensors[LATENTS],
            strength=0.6,
            num_inference_steps=10,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        apart = np.abs(np.asarray(image, int) - np.asarray(expected, int))
        assert apart.mean() < 0.3  # rounding, in another order


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_inversion_is_the_library_s(kind: tiny.Kind, subject: Subject) -> None:
    pipe = tiny.pipeline(kind)
    backbone = SdBackbone.from_pipeline(pipe)
    path = hiper.fit(backbone, subject, method="ddim-inversion", num_inference_steps=10).tensors[TRAJECTORY]
    scheduler = DDIMInverseScheduler.from_config(
        pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False
    )
    scheduler.set_timesteps(10)
    rows, _ = pipe.encode_prompt(CAPTION, "cpu", 1, False)
    latents = path[:1]
    with torch.no_grad():
        for number, t in enumerate(scheduler.timesteps, start=1):
            latents = scheduler.step(pipe.unet(latents, t, rows).sample, t, latents).prev_sample
            assert torch.allclose(path[number], latents[0], rtol=1e-4, atol=1e-4)


def test_the_levels_are_the_sampler_s(sd1: SdBackbone) -> None:
    scheduler = DDIMScheduler.from_config(sd1._pipe.scheduler.config)
    for steps in (1, 7, 50, 1000):
        scheduler.set_timesteps(steps)
        assert levels(1000, steps)[:0:-1] == [min(t, 999) for t in scheduler.timesteps.tolist()]


def null_text(backbone: Any, path: Tensor, guidance: float, inner: int) -> tuple[Tensor, Tensor]:
    """Algorithm 1 of arXiv:2211.09794 with the settings of its code, on plain tensors."""
    unet, products = backbone._pipe.unet, backbone._pipe.scheduler.alphas_cumprod
    steps = len(path) - 1
    conditioning, empty = backbone.encode(CAPTION).token_embeddings, backbone.encode("").token_embeddings
    latents, fitted = path[-1:], []
    for i in range(steps):
        t = 1 + (steps - 1 - i) * (1000 // steps)
        now, then = products[t], products[max(t - 1000 // steps, 0)]
        empty = empty.detach().clone().requires_grad_()
        adam = torch.optim.Adam([empty], lr=1e-2 * (1 - i / (2 * steps)))

        def down(empty: Tensor, latents: Tensor = latents, t: int = t, now=now, then=then) -> Tensor:  # type: ignore[no-untyped-def]
            conditional = unet(latents, t, conditioning).sample.detach()
            unconditional = unet(latents, t, empty).sample
            noise = unconditional + guidance * (conditional - unconditional)
            clean = (latents - (1 - now) ** 0.5 * noise) / now**0.5
            result: Tensor = then**0.5 * clean + (1 - then) ** 0.5 * noise
            return result

        for _ in range(inner):
            loss = F.mse_loss(down(empty), path[steps - 1 - i][None])
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            if loss.item() < 1e-5 + i * 2e-5:
                break
        fitted.append(empty.detach())
        latents = down(empty).detach()
    return torch.cat(fitted), latents


@pytest.mark.slow
def test_null_text_is_the_published_algorithm(sd1: SdBackbone, subject: Subject) -> None:
    artifact = hiper.fit(
        sd1, subject, method="null-text", num_inference_steps=4, inner_steps=3, guidance_scale=2.0
    )
    rows, latents = null_text(sd1, artifact.tensors[TRAJECTORY], 2.0, 3)
    assert (artifact.tensors[NULLS] - sd1.encode("").token_embeddings).abs().max() > 0.01
    assert torch.allclose(artifact.tensors[NULLS], rows, atol=1e-4)
    error = F.mse_loss(latents, artifact.tensors[TRAJECTORY][:1])
    assert artifact.figures["reconstruction_error"] == pytest.approx(float(error), rel=1e-2)


@pytest.mark.slow
def test_null_text_comes_nearer_to_the_picture_than_plain_inversion(
    sd2: SdBackbone, subject: Subject
) -> None:
    options: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 2.0, "strength": 1.0}
    plain = hiper.fit(sd2, subject, method="ddim-inversion", **options)
    fitted = hiper.fit(sd2, subject, method="null-text", inner_steps=10, **options)
    source = np.asarray(sd2.decode(plain.tensors[TRAJECTORY][:1])[0], float)
    errors = [
        np.square(np.asarray(hiper.edit(sd2, artifact, CAPTION).images[0], float) - source).mean()
        for artifact in (plain, fitted)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_the_seed_decides_the_noise_of_sdedit_alone(sd1: SdBackbone, subject: Subject) -> None:
    artifact = hiper.fit(sd1, subject, method="sdedit", num_inference_steps=2)
    first, second = hiper.edit(sd1, artifact, SENTENCE, seeds=[1, 2]).images
    assert first.tobytes() != second.tobytes()
    inverted = hiper.fit(sd1, subject, method="ddim-inversion", num_inference_steps=2)
    with pytest.warns(HiperWarning, match="draws the same picture for every seed"):
        first, second = hiper.edit(sd1, inverted, SENTENCE, seeds=[1, 2]).images
    assert first.tobytes() == second.tobytes()
    assert first is not second


def test_one_picture_is_drawn_where_the_seed_decides_nothing(
    sd1: SdBackbone, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    inverted = hiper.fit(sd1, subject, method="ddim-inversion", num_inference_steps=2, guidance_scale=2.0)
    batches: list[int] = []
    predict = sd1.predict

    def counted(noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        batches.append(len(noisy))
        return predict(noisy, t, conditioning)

    monkeypatch.setattr(sd1, "predict", counted)
    with pytest.warns(HiperWarning, match="draws the same picture for every seed"):
        hiper.edit(sd1, inverted, SENTENCE, seeds=[1, 2, 3])
    assert set(batches) == {2}  # one picture by both prompts
    with pytest.warns(HiperWarning, match="draws the same picture for every seed"):
        first, second = hiper.edit(
            sd1, inverted, SENTENCE, seeds=[1, 2], negative_prompt=["a cat", "a red house"]
        ).images
    assert first.tobytes() != second.tobytes()


@pytest.mark.slow
def test_the_whole_way_is_the_pipeline_s_own_sampling(sd2: SdBackbone, subject: Subject) -> None:
    """From pure noise the walk draws what DDIM draws."""
    artifact = hiper.fit(sd2, subject, method="ddim-inversion", num_inference_steps=5, guidance_scale=2.0)
    noise = torch.randn(1, *sd2.latent_shape, generator=generator(3))
    path = artifact.tensors[TRAJECTORY].clone()
    path[-1] = noise[0]
    given = replace(artifact, tensors={TRAJECTORY: path})
    (image,) = hiper.edit(sd2, given, SENTENCE, strength=1.0, negative_prompt="a cat").images
    expected = sd2.sample(
        sd2.encode(SENTENCE),
        [sd2.encode("a cat")],
        sd2.sampling_settings(
            num_inference_steps=5,
            guidance_scale=2.0,
            scheduler="ddim",
            height=tiny.RESOLUTION,
            width=tiny.RESOLUTION,
        ),
        seeds=[3],
    ).images[0]
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).max() <= 1


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("sdedit", {"strength": 1.5}, "strength is 1.5; for method sdedit"),
        ("sdedit", {"scheduler": "euler"}, "walks by ddim alone"),
        ("sdedit", {"height": 64}, "draws at the size of its fit, 32 x 32"),
        ("ddim-inversion", {"num_inference_steps": 3}, "draws with the 2 steps of its fit"),
        ("null-text", {"negative_prompt": "a cat"}, "learnt what stands in for a negative prompt"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    sd1: SdBackbone, subject: Subject, method: str, settings: dict[str, Any], words: str
) -> None:
    few: dict[str, Any] = {"inner_steps": 1} if method == "null-text" else {}
    artifact = hiper.fit(sd1, subject, method=method, num_inference_steps=2, **few)
    with pytest.raises(OptionError, match=words):
        hiper.edit(sd1, artifact, SENTENCE, **settings)


def test_latents_of_another_shape_are_refused(sd1: SdBackbone, subject: Subject) -> None:
    artifact = hiper.fit(sd1, subject, method="sdedit", num_inference_steps=2)
    other = replace(artifact, tensors={LATENTS: torch.zeros(1, 4, 16, 16)})
    with pytest.raises(ArtifactError, match=r"latents are \[1, 4, 16, 16\], those of .* \[any, 4, 8, 8\]"):
        hiper.edit(sd1, other, SENTENCE)
