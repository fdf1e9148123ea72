"""Textual Inversion: only the new word is learnt, as a few lines of plain diffusers learn it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

import hiper
from hiper.backbones.sd import SdBackbone
from hiper.backbones.sdxl import SdxlBackbone
from hiper.errors import OptionError
from hiper.images import Subject, fit_square
from hiper.methods import get_method
from hiper.methods.subject_noun import noun_of, with_word
from hiper.seeds import generator
from tests import tiny, tiny_families

CAPTION, SENTENCE = "a standing dog", "a sitting dog on the grass"
METHOD = "textual-inversion"
pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower")


def plain_fit(pipe: Any, subject: Subject, seed: int, steps: int, rate: float) -> Tensor:
    """The published procedure: a larger vocabulary, whose other rows are put back after every step."""
    random = generator(seed)
    pixels = SdBackbone.from_pipeline(pipe).latents(fit_square(subject.image, tiny.RESOLUTION), random)
    pipe.tokenizer.add_tokens("<subject>")
    new = pipe.tokenizer.convert_tokens_to_ids("<subject>")
    dog = pipe.tokenizer("dog", add_special_tokens=False).input_ids
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    table = pipe.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    with torch.no_grad():
        table[new] = table[dog].mean(0)
    before, adam = table.detach().clone(), torch.optim.Adam([table], lr=rate)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    others = torch.arange(len(table)) != new
    for _ in range(steps):
        noise = torch.randn(1, *pixels.shape[1:], generator=random)
        t = torch.randint(0, 1000, (1,), generator=random)
        rows, _ = pipe.encode_prompt("a standing <subject>", "cpu", 1, False)
        predicted = pipe.unet(scheduler.add_noise(pixels, noise, t), t, rows).sample
        is_v = scheduler.config.prediction_type == "v_prediction"
        loss = F.mse_loss(predicted, scheduler.get_velocity(pixels, noise, t) if is_v else noise)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        with torch.no_grad():
            table[others] = before[others]
    fitted: Tensor = table.detach()[new : new + 1]
    return fitted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_the_word_is_what_plain_diffusers_learns(kind: tiny.Kind, subject: Subject) -> None:
    backbone = SdBackbone.from_pipeline(tiny.pipeline(kind))
    artifact = hiper.fit(
        backbone, subject, method=METHOD, preset="one-image", num_train_steps=5, learning_rate=0.01, seed=3
    )
    (learnt,) = artifact.tensors.values()
    assert (learnt - backbone.token_embeddings("dog")["text_encoder"]).abs().max() > 0.01
    assert torch.allclose(learnt, plain_fit(tiny.pipeline(kind), subject, 3, 5, 0.01), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("vectors", [1, 3])
def test_a_plain_pipeline_loads_what_is_exported(
    sd1: SdBackbone, subject: Subject, tmp_path: Path, vectors: int
) -> None:
    artifact = hiper.fit(sd1, subject, method=METHOD, num_train_steps=3, vectors=vectors)
    exported = get_method(METHOD).exported(artifact)
    safetensors.torch.save_file(dict(exported), tmp_path / "learned_embeds.safetensors")
    pipe = tiny.pipeline("sd1")
    pipe.load_textual_inversion(tmp_path)
    rows, _ = pipe.encode_prompt("a sitting <subject> on the grass", "cpu", 1, False)
    ours = hiper.prompt_embeds(sd1, artifact, SENTENCE)["prompt_embeds"]
    assert (ours - sd1.encode(SENTENCE).token_embeddings).abs().max() > 0.01
    assert torch.allclose(ours, rows, atol=1e-5)


@pytest.mark.slow
def test_sdxl_learns_a_word_of_both_encoders(subject: Subject) -> None:
    backbone = SdxlBackbone.from_pipeline(tiny_families.pipeline("sdxl"))
    before = backbone.weights_sha256()
    artifact = hiper.fit(backbone, subject, method=METHOD, num_train_steps=2, batch=1, num_inference_steps=2)
    assert backbone.weights_sha256() == before
    exported = get_method(METHOD).exported(artifact)
    assert sorted(exported) == ["clip_g", "clip_l"]
    ours = hiper.prompt_embeds(backbone, artifact, SENTENCE)
    pipe = tiny_families.pipeline("sdxl")
    for name, ending in (("clip_l", ""), ("clip_g", "_2")):
        pipe.load_textual_inversion(
            exported[name],
            token="<subject>",
            text_encoder=getattr(pipe, f"text_encoder{ending}"),
            tokenizer=getattr(pipe, f"tokenizer{ending}"),
        )
    rows, _, pooled, _ = pipe.encode_prompt("a sitting <subject> on the grass", device="cpu")
    assert torch.allclose(ours["prompt_embeds"], rows, atol=1e-5)
    assert torch.allclose(ours["pooled_prompt_embeds"], pooled, atol=1e-5)


def test_strength_0_is_the_plain_sentence(sd1: SdBackbone, subject: Subject) -> None:
    artifact = hiper.fit(sd1, subject, method=METHOD, num_train_steps=3)
    rows = hiper.prompt_embeds(sd1, artifact, SENTENCE, strength=0.0)["prompt_embeds"]
    assert torch.allclose(rows, sd1.encode(SENTENCE).token_embeddings, atol=1e-5)


def test_the_words_of_a_spliced_sentence_are_told(sd1: SdBackbone) -> None:
    vectors = {name: vector.repeat(2, 1) for name, vector in sd1.token_embeddings("dog").items()}
    conditioning = sd1.encode_with_token_embeddings("a red <subject> on the grass", "<subject>", vectors)
    assert conditioning.words_per_token[:5] == ("", "a", "red", "<subject>", "<subject>")
    assert conditioning.words_per_token[5] == "on"


def test_a_sentence_without_the_noun_is_refused(sd1: SdBackbone, subject: Subject) -> None:
    artifact = hiper.fit(sd1, subject, method=METHOD, num_train_steps=1)
    with pytest.raises(OptionError, match=r"'a cat' does not say 'dog'.*noun=WORD"):
        hiper.edit(sd1, artifact, "a cat")
    with pytest.raises(OptionError, match="does not say 'cat'"):
        hiper.fit(sd1, subject, method=METHOD, num_train_steps=1, noun="cat")


@pytest.mark.parametrize(
    ("caption", "noun"),
    [
        ("a standing dog", "dog"),
        ("a pencil sketch of a standing dog in a meadow", "dog"),
        ("A Teddy Bear, on the sofa", "bear"),
        ("a photo of my cat", "cat"),
        ("a bowl of fruit", "bowl"),
        ("a black and white dog", "dog"),
    ],
)
def test_the_noun_of_a_caption(caption: str, noun: str) -> None:
    assert noun_of(caption) == noun


@pytest.mark.parametrize("caption", ["", "in the snow", "a photo of"])
def test_a_caption_without_a_noun_is_refused(caption: str) -> None:
    with pytest.raises(OptionError, match="names no subject; say by noun=WORD"):
        noun_of(caption)


def test_only_whole_words_are_replaced() -> None:
    assert with_word("A Dog and a dogfish, dog", "dog", r"\1") == r"A \1 and a dogfish, \1"
