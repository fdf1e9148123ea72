"""DreamBooth, full and with LoRA, against a few lines of plain diffusers and peft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler
from peft import LoraConfig
from PIL import Image
from torch import Tensor

import hiper
from hiper.artifacts import Artifact
from hiper.backbones.sd import SdBackbone
from hiper.errors import ArtifactError, BackboneError, FitError
from hiper.images import Subject, fit_square
from hiper.methods import get_method, picture_latents
from hiper.methods.dreambooth import DreamboothOptions
from hiper.methods.identifiers import PriorPreserving, objective
from hiper.seeds import generator
from hiper.training import FitControl
from tests import tiny

CAPTION, SENTENCE = "a standing dog", "a sitting dog on the grass"
FULL, LORA = "dreambooth", "dreambooth-lora"
QUICK: dict[str, Any] = {"num_train_steps": 3, "batch": 1, "num_inference_steps": 3, "guidance_scale": 3.0}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:the fit did not lower")]


@pytest.fixture(scope="module")
def learnt(sd1: SdBackbone, subject: Subject) -> dict[str, Artifact]:
    return {
        method: hiper.fit(sd1, subject, method=method, preset="default", **QUICK) for method in (FULL, LORA)
    }


def plain_steps(
    pipe: Any, weights: list[Tensor], subject: Subject, random: torch.Generator, rate: float
) -> None:
    """The loop of diffusers' DreamBooth examples, with plain Adam."""
    latents = SdBackbone.from_pipeline(pipe).latents(fit_square(subject.image, tiny.RESOLUTION), generator(3))
    rows, _ = pipe.encode_prompt("a standing sks dog", "cpu", 1, False)
    rows = rows.detach()
    scheduler, adam = DDPMScheduler.from_config(pipe.scheduler.config), torch.optim.Adam(weights, lr=rate)
    for _ in range(3):
        noise = torch.randn(1, *latents.shape[1:], generator=random)
        t = torch.randint(0, 1000, (1,), generator=random)
        predicted = pipe.unet(scheduler.add_noise(latents, noise, t), t, rows).sample
        is_v = scheduler.config.prediction_type == "v_prediction"
        loss = F.mse_loss(predicted, scheduler.get_velocity(latents, noise, t) if is_v else noise)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()


def begun(subject: Subject) -> torch.Generator:
    """A generator that has drawn the noise of the picture's latents, as a fit has before its first step."""
    random = generator(3)
    torch.randn(1, 4, 8, 8, generator=random)
    return random


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_the_weights_are_what_plain_fine_tuning_learns(kind: tiny.Kind, subject: Subject) -> None:
    artifact = hiper.fit(
        SdBackbone.from_pipeline(tiny.pipeline(kind)),
        subject,
        method=FULL,
        preset="one-image",
        num_train_steps=3,
        learning_rate=1e-3,
        seed=3,
    )
    pipe = tiny.pipeline(kind)
    before = {name: weight.detach().clone() for name, weight in pipe.unet.named_parameters()}
    plain_steps(pipe, list(pipe.unet.parameters()), subject, begun(subject), 1e-3)
    for name, weight in pipe.unet.named_parameters():
        moved = (artifact.tensors[f"unet.{name}"] - before[name]).flatten()
        assert moved.abs().max() > 1e-4
        likeness = F.cosine_similarity(moved, (weight.detach() - before[name]).flatten(), dim=0)
        assert likeness > 0.99


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_the_layers_are_what_plain_peft_learns(kind: tiny.Kind, subject: Subject) -> None:
    artifact = hiper.fit(
        SdBackbone.from_pipeline(tiny.pipeline(kind)),
        subject,
        method=LORA,
        preset="one-image",
        num_train_steps=3,
        learning_rate=1e-2,
        seed=3,
    )
    pipe = tiny.pipeline(kind)
    pipe.unet.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets))
    random = begun(subject)
    layers = {n.replace(".default.", "."): w for n, w in pipe.unet.named_parameters() if "lora" in n}
    assert layers.keys() == {name.removeprefix("unet.") for name in artifact.tensors}
    with torch.no_grad():
        for name, layer in layers.items():
            if "lora_A" in name:
                layer.copy_(torch.randn(layer.shape, generator=random) / 4)
    plain_steps(pipe, list(layers.values()), subject, random, 1e-2)
    for name, layer in layers.items():
        assert torch.allclose(artifact.tensors[f"unet.{name}"], layer.detach(), atol=1e-3)
        assert artifact.tensors[f"unet.{name}"].abs().max() > 1e-3


def drawn(pipe: Any, prompt: str) -> Image.Image:
    """What a plain pipeline draws."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    picture: Image.Image = pipe(
        prompt, generator=torch.Generator().manual_seed(7), num_inference_steps=3, guidance_scale=3.0
    ).images[0]
    return picture


def apart(first: Image.Image, second: Image.Image) -> float:
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean())


@pytest.mark.parametrize("method", [FULL, LORA])
def test_a_plain_pipeline_loads_what_is_exported(
    sd1: SdBackbone, learnt: dict[str, Artifact], method: str, tmp_path: Path
) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    safetensors.torch.save_file(dict(get_method(method).exported(learnt[method])), file)
    pipe, sentence = tiny.pipeline("sd1"), "a sitting sks dog on the grass"
    before = drawn(pipe, sentence)
    if method == LORA:
        pipe.load_lora_weights(tmp_path)
    else:
        pipe.unet.load_state_dict(safetensors.torch.load_file(file))
    expected = drawn(pipe, sentence)
    (ours,) = hiper.edit(sd1, learnt[method], SENTENCE, seeds=[7], keep=0).images
    assert apart(expected, before) > 1
    assert apart(ours, expected) < 0.3


@pytest.mark.parametrize("method", [FULL, LORA])
def test_strength_0_is_the_plain_model(sd1: SdBackbone, learnt: dict[str, Artifact], method: str) -> None:
    (ours,) = hiper.edit(sd1, learnt[method], SENTENCE, seeds=[7], strength=0.0, keep=0).images
    assert ours.tobytes() == drawn(tiny.pipeline("sd1"), "a sitting sks dog on the grass").tobytes()


def test_strength_lies_between_the_weights(sd1: SdBackbone, learnt: dict[str, Artifact]) -> None:
    own = dict(sd1.denoiser.named_parameters())["conv_in.weight"].detach().clone()
    theirs = learnt[FULL].tensors["unet.conv_in.weight"]
    with get_method(FULL).attach(sd1, learnt[FULL], 0.25):
        swapped_weights = dict(sd1.denoiser.named_parameters())["conv_in.weight"].detach()
        assert torch.allclose(swapped_weights, own + 0.25 * (theirs - own))


def prior(backbone: SdBackbone, subject: Subject, **changes: Any) -> Any:
    resolved = DreamboothOptions(**{**QUICK, "learning_rate": 1e-3, "noun": "dog", **changes})
    options = get_method(FULL).resolve(resolved, backbone, subject)
    latents = picture_latents(backbone, subject, options, generator(3))
    return objective(backbone, subject, latents, options, FitControl())


def test_the_class_s_loss_stands_beside_the_subject_s(sd1: SdBackbone, subject: Subject) -> None:
    """Equation 2 of the paper: the sum, by the weight; the classes' pictures are the model's own."""
    both = prior(sd1, subject, class_images=3, prior_weight=0.5)
    assert isinstance(both, PriorPreserving)
    samples = sd1.sample(
        sd1.encode(CAPTION),
        [sd1.encode("")],
        sd1.sampling_settings(
            num_inference_steps=3,
            guidance_scale=3.0,
            scheduler="ddim",
            height=tiny.RESOLUTION,
            width=tiny.RESOLUTION,
        ),
        seeds=[1, 2, 3],
    )
    again = generator(0)
    expected = torch.cat([sd1.latents(image, again) for image in samples.images])
    assert torch.allclose(both.prior.latents, expected, atol=1e-5)
    random = generator(5)
    own = both.own.loss({}, random)
    picked = torch.randint(3, (1,), generator=random)
    of_class = replace(both.prior, latents=expected[picked]).loss({}, random)
    assert torch.allclose(both.loss({}, generator(5)), own + 0.5 * of_class)


def test_a_prior_of_weight_0_is_no_prior(
    sd1: SdBackbone, subject: Subject, learnt: dict[str, Artifact]
) -> None:
    artifact = hiper.fit(
        sd1, subject, method=FULL, class_images=2, prior_weight=0.0, preset="default", **QUICK
    )
    for name, weight in learnt[FULL].tensors.items():
        assert torch.equal(artifact.tensors[name], weight)


def test_the_prior_changes_what_is_learnt(
    sd1: SdBackbone, subject: Subject, learnt: dict[str, Artifact]
) -> None:
    before = sd1.weights_sha256()
    artifact = hiper.fit(sd1, subject, method=FULL, class_images=2, preset="default", **QUICK)
    name = "unet.conv_in.weight"
    assert not torch.equal(artifact.tensors[name], learnt[FULL].tensors[name])
    assert sd1.weights_sha256() == before


@pytest.mark.parametrize("method", [FULL, LORA])
def test_half_precision_learns_in_float32(subject: Subject, method: str) -> None:
    backbone = SdBackbone.from_pipeline(tiny.pipeline("sd1").to(torch.bfloat16))
    before = backbone.weights_sha256()
    artifact = hiper.fit(backbone, subject, method=method, preset="default", **QUICK)
    name = next(name for name in artifact.tensors if "lora_B" in name or name == "unet.conv_in.weight")
    learnt = artifact.tensors[name]
    assert not torch.equal(learnt, learnt.to(torch.bfloat16).float())
    hiper.edit(backbone, artifact, SENTENCE)
    assert backbone.weights_sha256() == before


def test_weights_that_leave_the_finite_numbers_end_in_words(subject: Subject) -> None:
    pipe = tiny.pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(torch.nan)
    with pytest.raises(FitError, match="left the finite numbers around step 1"):
        hiper.fit(SdBackbone.from_pipeline(pipe), subject, method=FULL, preset="default", **QUICK)


@pytest.mark.parametrize("method", [FULL, LORA])
def test_weights_of_another_shape_are_refused(
    sd1: SdBackbone, learnt: dict[str, Artifact], method: str
) -> None:
    before = sd1.weights_sha256()
    name, tensor = next(iter(learnt[method].tensors.items()))
    other = replace(learnt[method], tensors={**learnt[method].tensors, name: torch.ones(2, 3)})
    with pytest.raises(ArtifactError, match=r"it(s layer| holds weight) .*fit again on this model"):
        hiper.edit(sd1, other, SENTENCE)
    assert sd1.weights_sha256() == before
    assert tensor.shape != (2, 3)


def test_a_model_with_adapters_of_its_own_is_refused(subject: Subject) -> None:
    pipe = tiny.pipeline()
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]), adapter_name="theirs")
    with pytest.raises(BackboneError, match="has adapters of its own; merge them first"):
        hiper.fit(SdBackbone.from_pipeline(pipe), subject, method=LORA, preset="default", **QUICK)
    assert list(pipe.unet.peft_config) == ["theirs"]


@pytest.mark.parametrize("method", [FULL, LORA])
def test_a_denoiser_that_takes_turns_gets_its_own_weights_back(
    model_folder: Path, subject: Subject, learnt: dict[str, Artifact], method: str
) -> None:
    """Also when an edit ends while the text encoders are in memory and the denoiser is parked, with lent weights."""
    backbone = hiper.load_backbone(model_folder, device="cpu", memory="low")
    before = backbone.weights_sha256()
    given = replace(learnt[method], fingerprint=backbone.fingerprint())
    with get_method(method).attach(backbone, given, 1.0) as attached:
        attached.encode(SENTENCE)
    assert backbone.weights_sha256() == before
    (image,) = hiper.edit(backbone, given, SENTENCE, seeds=[7]).images
    whole = hiper.load_backbone(model_folder, device="cpu")
    assert image.tobytes() == hiper.edit(whole, given, SENTENCE, seeds=[7]).images[0].tobytes()
    assert backbone.weights_sha256() == before
