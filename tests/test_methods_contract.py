"""What every method keeps to, whatever it learns; on tiny real models that predict noise and v."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hiper
from hiper.artifacts import Artifact
from hiper.backbones.sd import SdBackbone
from hiper.errors import ArtifactError, Interrupted, OptionError
from hiper.images import Subject
from hiper.methods import get_method
from hiper.options import method_names, specs
from hiper.training import CheckpointFile, ProgressEvent
from tests import tiny

CAPTION, SENTENCE = "a standing dog", "a sitting dog"
QUICK: Mapping[str, Mapping[str, Any]] = {
    "ddim-inversion": {"num_inference_steps": 3},
    "dreambooth": {"num_train_steps": 4, "class_images": 2, "num_inference_steps": 2},
    "dreambooth-lora": {"num_train_steps": 4, "num_inference_steps": 2},
    "hiper": {"num_train_steps": 4, "num_inference_steps": 2},
    "imagic": {"num_train_steps": 3, "weight_steps": 2, "num_inference_steps": 2, "target": SENTENCE},
    "null-text": {"num_inference_steps": 3, "inner_steps": 2, "guidance_scale": 2.0},
    "sdedit": {"num_inference_steps": 2},
    "textual-inversion": {"num_train_steps": 4, "num_inference_steps": 2},
}
RESUMABLE = [name for name in QUICK if name not in ("ddim-inversion", "sdedit")]
pytestmark = [
    pytest.mark.filterwarnings("ignore:the fit did not lower"),  # after four steps it need not
    pytest.mark.parametrize("method", QUICK),
]
Fits = dict[tuple[str, str], Artifact]


@pytest.fixture(scope="module")
def fits() -> Fits:
    """Fits that are only looked at, by method and backbone."""
    return {}


@pytest.fixture
def artifact(backbone: SdBackbone, subject: Subject, method: str, fits: Fits) -> Artifact:
    return fit_once(backbone, subject, method, fits)


def fit_once(backbone: SdBackbone, subject: Subject, method: str, fits: Fits) -> Artifact:
    key = (method, backbone.objective)
    if key not in fits:
        fits[key] = hiper.fit(backbone, subject, method=method, **QUICK[method])
    return fits[key]


def same(first: Artifact, second: Artifact) -> bool:
    return first.tensors.keys() == second.tensors.keys() and all(
        torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items()
    )


def pixels(backbone: SdBackbone, artifact: Artifact, seed: int = 1, **settings: Any) -> bytes:
    (image,) = hiper.edit(backbone, artifact, SENTENCE, seeds=[seed], **settings).images
    return image.tobytes()


def test_every_method_is_held_to_this_contract(method: str) -> None:
    assert sorted(QUICK) == method_names()
    chosen = get_method(method)
    assert chosen.name == method
    assert {"default", "paper"} <= set(chosen.presets)
    assert chosen.learns
    assert chosen.paper.startswith("arXiv:")
    assert {"seed", "strength", "guidance_scale", "num_inference_steps", "scheduler"} <= set(
        specs(chosen.options_type)
    )
    for preset in chosen.presets:
        chosen.options(preset)


@pytest.mark.slow
def test_the_artifact_says_what_it_is_and_survives_the_file(
    sd1: SdBackbone, subject: Subject, method: str, fits: Fits, tmp_path: Path
) -> None:
    artifact = fit_once(sd1, subject, method, fits)
    assert (artifact.method, artifact.family, artifact.caption) == (method, sd1.family, CAPTION)
    assert (artifact.image_sha256, artifact.fingerprint) == (subject.sha256, sd1.fingerprint())
    assert artifact.figures["seconds"] >= 0
    assert artifact.edit["num_inference_steps"] == QUICK[method]["num_inference_steps"]
    loaded = Artifact.load(artifact.save(tmp_path / "dog.safetensors"))
    assert same(loaded, artifact)
    assert loaded.describe() == artifact.describe()
    assert pixels(sd1, loaded) == pixels(sd1, artifact)


@pytest.mark.slow
def test_the_same_seed_learns_the_same_bits(
    sd1: SdBackbone, subject: Subject, method: str, fits: Fits
) -> None:
    artifact = fit_once(sd1, subject, method, fits)
    assert same(hiper.fit(sd1, subject, method=method, **QUICK[method]), artifact)


@pytest.mark.slow
def test_what_was_learnt_shows_in_the_picture(backbone: SdBackbone, artifact: Artifact) -> None:
    plain = backbone.sample(
        backbone.encode(SENTENCE),
        [backbone.encode("")],
        backbone.sampling_settings(
            num_inference_steps=int(artifact.edit["num_inference_steps"]),
            guidance_scale=float(artifact.edit["guidance_scale"]),
            scheduler="ddim",
            height=tiny.RESOLUTION,
            width=tiny.RESOLUTION,
        ),
        seeds=[1],
    )
    assert pixels(backbone, artifact) != plain.images[0].tobytes()


@pytest.mark.slow
def test_the_backbone_is_what_it_was(sd1: SdBackbone, subject: Subject, method: str, fits: Fits) -> None:
    """After a fit and an edit, and after both have failed half way."""
    artifact = fit_once(sd1, subject, method, fits)
    before = sd1.weights_sha256()
    wanting = [weight.requires_grad for weight in sd1.denoiser.parameters()]
    hiper.fit(sd1, subject, method=method, **QUICK[method])
    pixels(sd1, artifact)

    def fail(*_: object) -> None:
        raise KeyError("the callback failed")

    with pytest.raises(KeyError):
        hiper.fit(sd1, subject, method=method, callback=fail, **QUICK[method])
    with pytest.raises(KeyError):
        pixels(sd1, artifact, callback=fail)
    assert sd1.weights_sha256() == before
    assert [weight.requires_grad for weight in sd1.denoiser.parameters()] == wanting
    assert all(weight.grad is None for weight in sd1.denoiser.parameters())


@pytest.mark.slow
def test_an_interrupted_fit_resumes_to_the_same_bits(
    sd1: SdBackbone, subject: Subject, method: str, fits: Fits, tmp_path: Path
) -> None:
    path, before = tmp_path / "fit.checkpoint", sd1.weights_sha256()
    records: list[ProgressEvent] = []
    enough = 0 if method == "sdedit" else 2  # sdedit has one step
    with pytest.raises(Interrupted) as stop:
        hiper.fit(
            sd1,
            subject,
            method=method,
            checkpoint=CheckpointFile(path=path),
            callback=records.append,
            should_stop=lambda: int(signal.SIGINT) if len(records) >= enough else None,
            **QUICK[method],
        )
    assert (stop.value.exit_status, len(records)) == (130, enough)
    assert sd1.weights_sha256() == before
    assert path.exists() == (method in RESUMABLE)
    checkpoint = CheckpointFile(path=path, resume=True)
    resumed = hiper.fit(sd1, subject, method=method, checkpoint=checkpoint, **QUICK[method])
    assert same(resumed, fit_once(sd1, subject, method, fits))
    checkpoint.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_family_is_refused(sd1: SdBackbone, subject: Subject, method: str, fits: Fits) -> None:
    artifact = fit_once(sd1, subject, method, fits)
    with pytest.raises(ArtifactError, match="fitted on"):
        hiper.edit(sd1, replace(artifact, family="sdxl"), SENTENCE)


def test_a_backbone_that_lacks_what_it_needs_is_refused(
    sd1: SdBackbone, subject: Subject, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requires = get_method(method).requires
    assert requires <= sd1.capabilities
    for need in requires:
        monkeypatch.setattr(SdBackbone, "capabilities", sd1.capabilities - {need})
        with pytest.raises(OptionError, match=f"method {method} requires {need}, which"):
            hiper.fit(sd1, subject, method=method, **QUICK[method])
        monkeypatch.undo()


@pytest.mark.slow
def test_rows_for_a_pipeline_of_ones_own(sd1: SdBackbone, subject: Subject, method: str, fits: Fits) -> None:
    artifact = fit_once(sd1, subject, method, fits)
    if get_method(method).token_embeddings_only:
        assert hiper.prompt_embeds(sd1, artifact, SENTENCE)["prompt_embeds"].shape[2] == sd1.embed_dim
    else:
        with pytest.raises(
            OptionError, match=f"method {method} is more than token embeddings; draw it with hiper"
        ):
            hiper.prompt_embeds(sd1, artifact, SENTENCE)


@pytest.mark.slow
def test_what_only_an_edit_uses_does_not_change_a_fit(
    sd1: SdBackbone, subject: Subject, method: str, fits: Fits
) -> None:
    """The benchmark shares fits by it."""
    chosen = get_method(method)
    other = {"strength": 0.5, "guidance_scale": 4.0, "num_inference_steps": 7, "scheduler": "ddim"}
    changed = {name: value for name, value in other.items() if name in chosen.editing}
    assert "strength" in changed
    assert same(
        hiper.fit(sd1, subject, method=method, **{**QUICK[method], **changed}),
        fit_once(sd1, subject, method, fits),
    )
