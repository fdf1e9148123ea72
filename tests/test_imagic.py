"""Imagic: its stages against a few lines of plain diffusers, and what stands between them."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

import hiper
from hiper.artifacts import Artifact
from hiper.backbones.sd import SdBackbone
from hiper.errors import Interrupted, OptionError
from hiper.images import Subject, fit_square
from hiper.methods import get_method
from hiper.methods.imagic import TEXT
from hiper.seeds import generator
from hiper.training import CheckpointFile, ProgressEvent
from tests import tiny

CAPTION, TARGET = "a standing dog", "a sitting dog on the grass"
METHOD = "imagic"
QUICK: dict[str, Any] = {
    "num_train_steps": 3,
    "learning_rate": 0.05,
    "weight_steps": 3,
    "weight_learning_rate": 1e-3,
    "batch": 1,
    "num_inference_steps": 3,
}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:the fit did not lower")]


@pytest.fixture(scope="module")
def learnt(sd1: SdBackbone, subject: Subject) -> Artifact:
    return hiper.fit(sd1, subject, method=METHOD, target=TARGET, **QUICK)


def plain_imagic(pipe: Any, subject: Subject, steps: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Both optimisations, as the pipeline among diffusers' community examples has them."""
    random = generator(3)
    square = fit_square(subject.image, tiny.RESOLUTION)
    latents = SdBackbone.from_pipeline(pipe).latents(square, random)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    rows, _ = pipe.encode_prompt(TARGET, "cpu", 1, False)
    rows = rows.detach().clone().requires_grad_()
    pipe.unet.requires_grad_(False)
    for weights, rate in (([rows], 0.05), (list(pipe.unet.parameters()), 1e-3)):
        adam = torch.optim.Adam(weights, lr=rate)
        for weight in weights:
            weight.requires_grad_(True)
        for _ in range(steps):
            noise = torch.randn(latents.shape, generator=random)
            t = torch.randint(0, 1000, (1,), generator=random)
            predicted = pipe.unet(scheduler.add_noise(latents, noise, t), t, rows).sample
            adam.zero_grad()
            F.mse_loss(predicted, noise).backward()  # type: ignore[no-untyped-call]
            adam.step()
        rows.requires_grad_(False)
    return rows.detach(), {name: weight.detach() for name, weight in pipe.unet.named_parameters()}


def test_both_stages_are_the_published_ones(subject: Subject) -> None:
    options = {**QUICK, "schedule": "constant", "sampling": "uniform"}
    backbone = SdBackbone.from_pipeline(tiny.pipeline())
    artifact = hiper.fit(backbone, subject, method=METHOD, target=TARGET, seed=3, **options)
    before = dict(backbone.denoiser.named_parameters())
    rows, weights = plain_imagic(tiny.pipeline(), subject, 3)
    assert torch.allclose(artifact.tensors[TEXT], rows[0], atol=1e-4)
    for name, weight in weights.items():
        moved = (artifact.tensors[f"unet.{name}"] - before[name]).flatten()
        assert F.cosine_similarity(moved, (weight - before[name]).flatten(), dim=0) > 0.99


def test_interpolation_1_is_the_fitted_embedding_and_0_the_sentence_s(
    sd1: SdBackbone, learnt: Artifact
) -> None:
    plain, fitted = sd1.encode(TARGET).token_embeddings, learnt.tensors[TEXT][None]
    assert (plain - fitted).abs().max() > 0.01
    for strength, expected in ((1.0, fitted), (0.0, plain), (0.25, 0.75 * plain + 0.25 * fitted)):
        with get_method(METHOD).attach(sd1, learnt, strength) as attached:
            assert torch.allclose(attached.encode(TARGET).token_embeddings, expected, atol=1e-6)


def test_another_sentence_and_no_sentence_are_refused(
    sd1: SdBackbone, subject: Subject, learnt: Artifact
) -> None:
    with pytest.raises(OptionError, match="fitted for 'a sitting dog on the grass'"):
        hiper.edit(sd1, learnt, "a red dog")
    with pytest.raises(OptionError, match="set target=SENTENCE"):
        hiper.fit(sd1, subject, method=METHOD, **QUICK)


def test_the_second_stage_goes_on_where_it_stopped(
    sd1: SdBackbone, subject: Subject, learnt: Artifact, tmp_path: Path
) -> None:
    records: list[ProgressEvent] = []
    path = tmp_path / "fit.checkpoint"
    with pytest.raises(Interrupted):
        hiper.fit(
            sd1,
            subject,
            method=METHOD,
            target=TARGET,
            checkpoint=CheckpointFile(path=path),
            callback=records.append,
            should_stop=lambda: int(signal.SIGINT) if len(records) >= 4 else None,
            **QUICK,
        )
    assert [(record.step, record.steps) for record in records] == [(i + 1, 6) for i in range(4)]
    assert path.exists()
    checkpoint = CheckpointFile(path=path, resume=True)
    records.clear()
    resumed = hiper.fit(
        sd1, subject, method=METHOD, target=TARGET, checkpoint=checkpoint, callback=records.append, **QUICK
    )
    assert records[0].step == 5
    assert all(torch.equal(tensor, learnt.tensors[name]) for name, tensor in resumed.tensors.items())
    checkpoint.remove()
    assert not list(tmp_path.iterdir())
