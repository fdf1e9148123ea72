"""What an edit is drawn by: samplers against the equation they solve, and text that is projected once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hiper
from hiper.backbones import EMBEDDED, _diffusers
from hiper.backbones.base import UNET_SCHEDULERS
from hiper.backbones.sd import SdBackbone
from hiper.errors import OptionError
from hiper.images import Subject
from hiper.seeds import generator
from tests import tiny

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
SPREAD = 0.5


def solved(name: str, steps: int) -> float:
    """How far a sampler carries a standard normal of noise, when pictures are normal with the deviation SPREAD.

    Such a picture's velocity is known: v = signal * E[noise | x] - sigma * E[picture | x].
    """
    scheduler = _diffusers.sampler(name, CONFIG)
    products = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(steps)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        signal, sigma = products[t.long()] ** 0.5, (1 - products[t.long()]) ** 0.5
        total = (signal * SPREAD) ** 2 + sigma**2
        v = (signal * sigma - sigma * signal * SPREAD**2) / total * seen
        x = scheduler.step(v, t, x, return_dict=False)[0]
    return float(x)


@pytest.mark.parametrize("name", UNET_SCHEDULERS)
def test_every_sampler_solves_the_same_equation(name: str) -> None:
    """The exact flow takes a standard normal to the pictures' own, so 1 to SPREAD."""
    assert solved(name, 200) == pytest.approx(SPREAD, abs=0.02)


@pytest.mark.parametrize("name", ["dpm++-karras", "unipc-karras"])
def test_karras_levels_need_fewer_steps(name: str) -> None:
    plain = abs(solved("ddim", 15) - SPREAD)
    assert abs(solved(name, 15) - SPREAD) < plain / 2


@pytest.mark.parametrize("name", ["dpm++-karras", "unipc-karras"])
def test_karras_levels_are_those_of_the_paper(name: str) -> None:
    """arXiv:2206.00364, eq. 5, with rho = 7, between the model's own ends."""
    scheduler = _diffusers.sampler(name, CONFIG)
    ends = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).double() ** 0.5
    scheduler.set_timesteps(9)
    ramp = torch.linspace(0, 1, 9, dtype=torch.float64)
    low, high = ends[0] ** (1 / 7), ends[-1] ** (1 / 7)
    expected = (high + ramp * (low - high)) ** 7
    assert torch.allclose(scheduler.sigmas[:9].double(), expected, rtol=1e-4)
    assert scheduler.config.prediction_type == "v_prediction"


@contextmanager
def counted(backbone: SdBackbone) -> Iterator[dict[str, int]]:
    """Count how often the keys and values of text are computed."""
    calls: dict[str, int] = {}
    layers = {name: part for name, part in backbone.denoiser.named_modules() if name.endswith("attn2.to_k")}

    def counting(name: str, layer: torch.nn.Module) -> Any:
        own = layer.forward

        def forward(rows: Tensor) -> Tensor:
            calls[name] = calls.get(name, 0) + 1
            answer: Tensor = own(rows)
            return answer

        return forward

    swapped_weights = {name: counting(name, layer) for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.__dict__["forward"] = swapped_weights[name]
    yield calls
    assert all(layer.__dict__.pop("forward") is swapped_weights[name] for name, layer in layers.items())


def drawn(backbone: SdBackbone, prompt: str, steps: int) -> list[bytes]:
    samples = backbone.sample(
        backbone.encode(prompt),
        [backbone.encode("")],
        backbone.sampling_settings(
            num_inference_steps=steps,
            guidance_scale=7.5,
            scheduler="ddim",
            height=tiny.RESOLUTION,
            width=tiny.RESOLUTION,
        ),
        seeds=[1, 2],
    )
    return [image.tobytes() for image in samples.images]


def test_text_is_projected_once_and_the_picture_is_the_same(sd1: SdBackbone) -> None:
    pipe = sd1._pipe
    with _diffusers.sampling(pipe, "ddim"):
        expected = pipe(
            ["a sitting dog"] * 2,
            num_inference_steps=3,
            guidance_scale=7.5,
            generator=[generator(1), generator(2)],
        ).images
    drawn(sd1, "a standing cat", 1)  # nothing of it may be left
    with counted(sd1) as calls:
        assert drawn(sd1, "a sitting dog", 3) == [image.tobytes() for image in expected]
    assert set(calls.values()) == {1}
    assert not any("forward" in part.__dict__ for part in sd1.denoiser.modules())


@pytest.mark.slow
def test_low_memory_keeps_nothing_and_draws_the_same(model_folder: Path) -> None:
    low, plain = (hiper.load_backbone(model_folder, device="cpu", memory=m) for m in ("low", "balanced"))
    assert isinstance(low, SdBackbone)
    assert isinstance(plain, SdBackbone)
    with counted(low) as calls:
        assert drawn(low, "a sitting dog", 3) == drawn(plain, "a sitting dog", 3)
    assert set(calls.values()) == {3}


def test_the_embedded_model_has_a_sampler_of_its_own(critters: Any) -> None:
    own = EMBEDDED["critters"]
    assert (critters.schedulers[0], critters.default_num_inference_steps) == (
        own.scheduler,
        own.num_inference_steps,
    )
    assert sorted(critters.schedulers) == sorted(UNET_SCHEDULERS)


def test_who_walks_takes_ddim_whatever_suits_the_model(
    sd1: SdBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject.from_image(tiny.picture(), caption="a standing dog")
    monkeypatch.setattr(sd1, "schedulers", ("unipc-karras", "ddim"))
    monkeypatch.setattr(sd1, "default_num_inference_steps", 15)
    artifact = hiper.fit(sd1, subject, method="sdedit")
    assert (artifact.edit["scheduler"], artifact.edit["num_inference_steps"]) == ("ddim", 50)
    with pytest.raises(OptionError, match="walks by ddim alone"):
        hiper.edit(sd1, artifact, "a sitting dog", scheduler="unipc-karras")
