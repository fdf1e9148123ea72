"""The network that guesses a tail: where it is found, what a fit makes of it, and that it knows an animal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training.critters.data import counterpart

import hiper
from hiper.backbones import FILE, Backbone, TailEncoder
from hiper.conditioning import place_tail, take_tail
from hiper.critters import bare_caption, draw_scene, render
from hiper.errors import BackboneError, OptionError
from hiper.images import Subject, fit_square
from hiper.seeds import generator
from tests import tiny

UNSEEN = 8 * 10**9
HARDLY: dict[str, Any] = {"num_train_steps": 1, "learning_rate": 1e-8, "preset": "default"}


@pytest.fixture(scope="module")
def guessing(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny SD 1 with an untrained tail encoder."""
    folder = tmp_path_factory.mktemp("guessing") / "model"
    shutil.copytree(model_folder, folder)
    torch.manual_seed(0)
    save_file(TailEncoder(4, 8, 5, tiny.EMBED).state_dict(), folder / FILE)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the fit did not lower the loss")
@pytest.mark.parametrize("tail", [3, 5, 7])
def test_a_fit_starts_from_the_guessed_directions_at_the_captions_lengths(
    guessing: Path, subject: Subject, tail: int
) -> None:
    backbone = hiper.load_backbone(guessing)
    artifact = hiper.fit(backbone, subject, tail=tail, **HARDLY)
    assert artifact.options["init"] == "guess"
    own = take_tail(backbone.encode(subject.caption), tail)
    latents = backbone.latents(fit_square(subject.image, backbone.resolution, how="crop"), generator(0))
    network = TailEncoder.load(guessing / FILE, backbone.latent_shape, backbone.embed_dim)
    expected = network(latents)[0][:tail]
    found = artifact.tensors["tail"]
    assert torch.allclose(found.norm(dim=1), own.norm(dim=1), rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(found[max(0, tail - 5) :], expected)
    assert cosine.min() > 0.9999
    assert torch.allclose(found[: max(0, tail - 5)], own[: max(0, tail - 5)], atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the fit did not lower the loss")
def test_the_papers_presets_start_from_the_caption_even_so(guessing: Path, subject: Subject) -> None:
    backbone = hiper.load_backbone(guessing)
    artifact = hiper.fit(backbone, subject, preset="paper", num_train_steps=1, learning_rate=1e-8)
    assert artifact.options["init"] == "caption"
    assert torch.allclose(artifact.tensors["tail"], take_tail(backbone.encode(subject.caption), 5), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the fit did not lower the loss")
def test_a_model_without_one_starts_from_the_caption_and_refuses_to_guess(
    model_folder: Path, subject: Subject
) -> None:
    backbone = hiper.load_backbone(model_folder)
    assert hiper.fit(backbone, subject, **HARDLY).options["init"] == "caption"
    with pytest.raises(OptionError, match="has no tail encoder; allowed are caption, zeros, random"):
        hiper.fit(backbone, subject, init="guess", **HARDLY)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "empty", "tensor missing", "another model's"])
def test_a_file_that_does_not_fit_is_told_in_one_line(guessing: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(guessing, folder)
    path = folder / FILE
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "tensor missing":
        weights = load_file(path)
        del weights["stem.bias"]
        save_file(weights, path)
    else:
        save_file(TailEncoder(10, 16, 5, tiny.EMBED).state_dict(), path)
    with pytest.raises(BackboneError, match="is damaged, or no tail encoder of this model") as refused:
        hiper.load_backbone(folder)
    assert "\n" not in str(refused.value)


def _error(backbone: Backbone, rows: torch.Tensor | None, seed: int) -> float:
    """Squared error, at four levels of heavy noise, on another picture of the animal, behind its bare caption."""
    scene = counterpart(seed)
    conditioning = backbone.encode(bare_caption(scene))
    if rows is not None:
        own = take_tail(conditioning, len(rows))
        conditioning = place_tail(
            conditioning, 0.8 * rows * (own.norm(dim=1) / rows.norm(dim=1))[:, None], "replace"
        )
    latents = backbone.latents(render(scene), generator(0))
    t = torch.tensor([500, 650, 800, 950])
    noise = torch.randn(len(t), *latents.shape[1:], generator=generator(seed))
    diffused = backbone.add_noise(latents, noise, t)
    with torch.no_grad():
        return float((backbone.predict(diffused.noisy, t, conditioning) - diffused.target).square().mean())


@pytest.mark.slow
def test_the_embedded_models_guess_describes_animals_that_it_never_saw(critters: Backbone) -> None:
    """Each guess explains another picture of its own animal better than the caption, and than another's guess."""
    encoder = critters.tail_encoder
    assert encoder is not None
    seeds = [seed for seed in range(UNSEEN, UNSEEN + 24) if draw_scene(seed).style != "sketch"]
    guesses = [encoder.guess(critters.latents(render(draw_scene(seed)), generator(0))) for seed in seeds]
    own = [_error(critters, rows, seed) for rows, seed in zip(guesses, seeds, strict=True)]
    plain = [_error(critters, None, seed) for seed in seeds]
    others = [
        _error(critters, rows, seed) for rows, seed in zip(guesses[1:] + guesses[:1], seeds, strict=True)
    ]
    better = sum(mine < bare for mine, bare in zip(own, plain, strict=True))
    assert better > 0.8 * len(seeds)
    assert sum(own) < 0.95 * sum(plain)
    assert sum(own) < 0.9 * sum(others)
