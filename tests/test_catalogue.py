"""What is said of models without loading them, against the loaded models; and how much they listen to their tail."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

import hiper
from hiper.analysis import sensitivity
from hiper.backbones import LICENCES, PIPELINES, LocalModel, Unusable, declarations, describe, models
from hiper.backbones.sd import SdBackbone
from hiper.errors import BackboneError
from hiper.metrics import picture_distance
from tests import tiny
from tests.conftest import Cli


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_declaration_is_what_the_class_has(pipeline: str) -> None:
    module, _, name = PIPELINES[pipeline].partition(":")
    kind = getattr(import_module(module), name)
    declared = declarations()[pipeline]
    assert (declared.pipeline, declared.denoiser) == (kind.pipeline_name, kind.denoiser_name)
    assert (declared.placement, declared.max_length) == (kind.placement, getattr(kind, "max_length", None))
    assert declared.tail.startswith("The tail ")
    assert declared.tail.removesuffix(".") in " ".join(kind.__doc__.split())


def parts(backbone: Any) -> dict[str, Any]:
    found: dict[str, Any] = backbone._modules()
    return found


def test_headers_count_what_the_modules_hold(model_folder: Path, sd1: SdBackbone) -> None:
    said = describe("tiny", model_folder)
    held = {
        name: sum(each.numel() for each in part.state_dict().values()) for name, part in parts(sd1).items()
    }
    assert said.parameters == {"float32": sum(held.values())}
    assert said.bytes == 4 * sum(held.values())
    assert said.denoiser == held["unet"]
    assert (said.max_length, said.width, said.licence) == (sd1.max_length, sd1.embed_dim, "")


def test_a_half_precision_copy_beside_the_weights_is_not_counted(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert describe("tiny", folder) == describe("tiny", model_folder)


def test_other_pipelines_are_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"StableDiffusionPipeline"', '"FluxPipelin"'))
    with pytest.raises(BackboneError, match=r"is a FluxPipelin; supported are .*did you mean"):
        describe("tiny", folder)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def cached(cache: Path, name: str, model: Path) -> Path:
    """Put a model where huggingface_hub keeps one that it fetched."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return shutil.copytree(model, repository / "snapshots" / ("0" * 40))


def test_models_of_the_local_cache_are_found(hub_cache: Path, model_folder: Path) -> None:
    assert [each.name for each in models()] == ["critters"]
    cached(hub_cache, "owner/tiny", model_folder)
    foreign = cached(hub_cache, "owner/foreign", model_folder)
    (foreign / "model_index.json").write_text('{"_class_name": "AudioPipeline"}')
    (cached(hub_cache, "owner/text", model_folder) / "model_index.json").unlink()
    damaged = cached(hub_cache, "owner/damaged", model_folder)
    (damaged / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    found = {each.name: each for each in models()}
    assert set(found) == {"critters", "owner/tiny", "owner/damaged"}
    assert isinstance(found["owner/tiny"], LocalModel)
    assert found["critters"].licence == LICENCES["critters"]  # type: ignore[union-attr]
    broken = found["owner/damaged"]
    assert isinstance(broken, Unusable)
    assert "damaged" in broken.reason


@pytest.mark.slow
def test_the_same_last_rows_move_nothing(sd1: SdBackbone) -> None:
    found = sensitivity(sd1, sentence="a dog", other="a dog", pictures=2)
    assert (found.tail, found.ratio) == (0, 0)
    assert found.seed > 0


@pytest.mark.slow
def test_the_distance_is_that_of_the_pictures(sd1: SdBackbone) -> None:
    found = sensitivity(sd1, sentence="a standing dog", other="the red grass", pictures=2)
    subject = hiper.Subject.from_image(tiny.picture(), caption="a dog")
    artifact = hiper.fit(sd1, subject, num_train_steps=1)

    def drawn(tail: str) -> list[Image.Image]:
        learnt = replace(artifact, tensors={"tail": sd1.encode(tail).token_embeddings[0, -5:]})
        return hiper.edit(
            sd1, learnt, "a standing dog", seeds=[0, 1], strength=1, num_inference_steps=20, keep=0
        ).images

    before, after = drawn("a standing dog"), drawn("the red grass")
    moved = [picture_distance(one, two) for one, two in zip(before, after, strict=True)]
    assert np.isclose(found.tail, np.mean(moved), rtol=0.02)
    assert np.isclose(found.seed, picture_distance(*before), rtol=0.02)


@pytest.mark.slow
def test_the_command_lists_and_measures(cli: Cli, hub_cache: Path, model_folder: Path) -> None:
    lines = cli("backbones").out
    assert "prompt: 77 tokens, width 128; tail: replace" in lines
    assert "ZImagePipeline: family z-image, up to 512 tokens" in lines
    done = cli("backbones", "--measure", model_folder, "--json")
    record = json.loads(done.out)
    assert [each["name"] for each in record["models"]] == ["critters", str(model_folder)]
    assert [each["preset"] for each in record["models"]] == ["default", "published"]
    assert all(each["evidence"] for each in record["models"])
    figures = record["sensitivity"][str(model_folder)]
    assert figures["ratio"] == pytest.approx(figures["tail"] / figures["seed"])
    cli("backbones", "--measure", "no-such-model", "--quiet").refusal("no model 'no-such-model'")
