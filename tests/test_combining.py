"""Several tails: side by side, averaged, in the negative branch; and what cannot be put together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

import hiper
from hiper.artifacts import Artifact, EditResult
from hiper.artifacts.header import PARTS
from hiper.backbones.sd import SdBackbone
from hiper.conditioning import averaged, place_tail, side_by_side
from hiper.errors import ArtifactError, HiperWarning, OptionError
from hiper.methods import get_method
from tests import tiny
from tests.conftest import Cli

FAST: dict[str, Any] = {"num_inference_steps": 3, "keep": 0}
SENTENCE = "a sitting dog"


@pytest.fixture(scope="module")
def red(sd1: SdBackbone) -> Artifact:
    turned = ImageOps.flip(tiny.picture())
    subject = hiper.Subject.from_image(turned, caption="a red cat")
    return hiper.fit(sd1, subject, num_train_steps=12, learning_rate=0.05, tail=3, strength=0.6)


def rows_of(artifact: Artifact) -> torch.Tensor:
    return artifact.tensors["tail"]


def pixels(result: EditResult) -> list[bytes]:
    return [image.tobytes() for image in result.images]


# the rows


def test_side_by_side_is_linear_in_every_strength() -> None:
    a, b = torch.randn(2, 4), torch.randn(3, 4)
    assert torch.equal(side_by_side([a, b], [0.5, -2]), torch.cat([0.5 * a, -2 * b]))
    assert torch.allclose(averaged([a, 3 * a], [0.25, 0.75]), 2.5 * a)


@pytest.mark.parametrize("placement", ["append", "replace"])
def test_both_tails_stand_behind_the_sentence(
    sd1: SdBackbone, artifact: Artifact, red: Artifact, placement: Any
) -> None:
    both = hiper.combine([artifact, red], strength=[0.5, None], placement=placement)
    with get_method("hiper").attach(sd1, both, 1.0) as attached:
        rows = attached.encode(SENTENCE).token_embeddings[0]
    plain = sd1.encode(SENTENCE).token_embeddings[0]
    kept = 77 if placement == "append" else 77 - 8
    assert torch.equal(rows[:kept], plain[:kept])
    assert torch.equal(rows[kept:], torch.cat([0.5 * rows_of(artifact), 0.6 * rows_of(red)]))


@pytest.mark.slow
def test_an_edit_with_several_is_the_edit_with_the_combined_artifact(
    sd1: SdBackbone, artifact: Artifact, red: Artifact
) -> None:
    several = hiper.edit(sd1, [artifact, red], SENTENCE, strength=[0.8, 0.4], **FAST)
    both = hiper.combine([artifact, red], strength=[0.8, 0.4])
    combined = hiper.edit(sd1, both, SENTENCE, **FAST)
    assert pixels(several) == pixels(combined)
    assert several.settings == combined.settings
    assert several.settings.strength == 1
    one, single = (hiper.edit(sd1, each, SENTENCE, **FAST) for each in ([artifact], artifact))
    assert pixels(one) == pixels(single)
    embeds = hiper.prompt_embeds(sd1, [artifact, red], SENTENCE, strength=[0.8, 0.4])
    assert torch.equal(embeds["prompt_embeds"], hiper.prompt_embeds(sd1, both, SENTENCE)["prompt_embeds"])


def test_a_tail_of_strength_0_is_left_out(sd1: SdBackbone, artifact: Artifact, red: Artifact) -> None:
    """Rows of zeros would take their share of attention."""
    one = hiper.combine([artifact, red], strength=[0.8, 0], negative=red, negative_strength=0)
    assert torch.equal(one.tensors["tail"], artifact.tensors["tail"] * 0.8)
    assert one.tensors.keys() == {"tail"}
    none = hiper.edit(sd1, [artifact, red], SENTENCE, strength=0, **FAST)
    assert (none.settings.strength, none.settings.keep) == (0, 0)  # of two pictures none can be kept
    assert pixels(none) == pixels(hiper.edit(sd1, artifact, SENTENCE, strength=0, **FAST))


def test_each_tail_and_its_strength_count(sd1: SdBackbone, artifact: Artifact, red: Artifact) -> None:
    drawn = [
        pixels(hiper.edit(sd1, [artifact, red], SENTENCE, strength=strengths, **FAST))[0]
        for strengths in ([0.8, 0.8], [0.8, 0], [0, 0.8])
    ]
    assert len(set(drawn)) == 3


def test_a_denoiser_without_positions_sees_no_order(
    sd1: SdBackbone, artifact: Artifact, red: Artifact
) -> None:
    t = torch.tensor([500])
    noise = torch.randn(1, *sd1.latent_shape, generator=torch.Generator().manual_seed(0))
    plain = sd1.encode(SENTENCE)
    one, other = (
        sd1.predict(noise, t, place_tail(plain, rows_of(hiper.combine(order)), "append"))
        for order in ([artifact, red], [red, artifact])
    )
    assert torch.allclose(one, other, atol=1e-5)


# the average


def test_the_average_of_a_tail_with_itself_is_that_tail(artifact: Artifact) -> None:
    assert torch.allclose(rows_of(hiper.average([artifact, artifact])), rows_of(artifact))
    assert torch.equal(rows_of(hiper.average([artifact, artifact], weights=[1, 0])), rows_of(artifact))


def test_the_average_weighs_and_says_of_what_it_is(artifact: Artifact) -> None:
    other = replace(
        artifact,
        caption="a jumping dog",
        tensors={"tail": -rows_of(artifact)},
        edit={**artifact.edit, "num_inference_steps": 9},
    )
    mean = hiper.average([artifact, other], weights=[3, 1])
    assert torch.allclose(rows_of(mean), rows_of(artifact) / 2)
    assert (mean.caption, mean.image_sha256) == ("a standing dog + a jumping dog", artifact.image_sha256)
    assert mean.edit == artifact.edit
    assert mean.options["tail"] == 5
    assert [part["weight"] for part in json.loads(mean.extra[PARTS])] == [0.75, 0.25]


def test_a_combined_artifact_is_a_file_like_any_other(
    sd1: SdBackbone, artifact: Artifact, red: Artifact, tmp_path: Path
) -> None:
    both = hiper.combine([artifact, red], negative=red)
    loaded = Artifact.load(both.save(tmp_path / "both.safetensors"))
    assert loaded.describe() == both.describe()
    parts = json.loads(loaded.extra[PARTS])
    assert [part["caption"] for part in parts] == ["a standing dog", "a red cat", "a red cat"]
    assert [part["strength"] for part in parts] == [0.8, 0.6, 0.6]
    assert [part.get("negative", False) for part in parts] == [False, False, True]
    again = hiper.edit(sd1, loaded, SENTENCE, **FAST)
    assert pixels(again) == pixels(hiper.edit(sd1, [artifact, red], SENTENCE, negative=red, **FAST))


# the negative branch


@pytest.mark.parametrize("placement", ["append", "replace"])
def test_the_negative_tail_stands_once_behind_the_negative_prompt(
    sd1: SdBackbone, artifact: Artifact, red: Artifact, placement: Any
) -> None:
    away = hiper.combine([artifact], negative=red, negative_strength=0.5, placement=placement)
    embeds = hiper.prompt_embeds(sd1, away, SENTENCE, negative_prompt="a red")
    positive, negative = embeds["prompt_embeds"][0], embeds["negative_prompt_embeds"][0]
    assert positive.shape == negative.shape
    assert torch.equal(negative[-3:], 0.5 * rows_of(red))
    plain = sd1.encode("a red").token_embeddings[0]
    assert torch.equal(negative[: 77 - 5], plain[: 77 - 5])
    padding = negative[77 - 5 : -3]
    assert torch.equal(padding, plain[-5:].repeat(2, 1)[: len(padding)])


def test_a_negative_tail_changes_the_picture_and_guidance_1_knows_none(
    sd1: SdBackbone, artifact: Artifact, red: Artifact
) -> None:
    with_it = hiper.edit(sd1, artifact, SENTENCE, negative=red, **FAST)
    assert pixels(with_it) != pixels(hiper.edit(sd1, [artifact], SENTENCE, strength=[0.8], **FAST))
    alone = hiper.edit(sd1, [artifact], SENTENCE, strength=[0.8], guidance_scale=1, **FAST)
    with pytest.warns(HiperWarning, match="negative sentence is ignored"):
        unheard = hiper.edit(sd1, artifact, SENTENCE, negative=red, guidance_scale=1, **FAST)
    assert pixels(unheard) == pixels(alone)


# refusals


def test_what_cannot_be_put_together(artifact: Artifact, red: Artifact) -> None:
    of_v = {**artifact.extra, "modelspec.prediction_type": "v"}
    wide = replace(artifact, tensors={"tail": torch.zeros(5, 48)}, caption="a wide dog")
    for changed, words in (
        (replace(artifact, method="imagic"), "learnt by imagic; allowed are tails of method hiper"),
        (replace(artifact, family="sdxl"), "of sdxl with width 32; fit both on one model"),
        (wide, "'a wide dog' of sd with width 48"),
        (replace(artifact, extra=of_v), "predicts epsilon, .* as predicting v_prediction"),
        (hiper.combine([artifact], negative=red), "already holds a negative tail"),
    ):
        for put_together in (hiper.combine, hiper.average):
            with pytest.raises(ArtifactError, match=words):
                put_together([artifact, changed])
    with pytest.raises(ArtifactError, match="no artifact is given"):
        hiper.combine([])
    with pytest.raises(ArtifactError, match="65 token embeddings in all; allowed are 64"):
        hiper.combine([artifact] * 13)


def test_an_average_needs_fits_alike(artifact: Artifact, red: Artifact) -> None:
    appended = replace(artifact, options={**artifact.options, "placement": "append"})
    scattered = [
        replace(artifact, options={**artifact.options, "placement": "random"}, seed=i) for i in (1, 2)
    ]
    with pytest.raises(
        ArtifactError, match="placement random by seed 1 and 'a standing dog' random by seed 2"
    ):
        hiper.average(scattered)
    assert hiper.average([scattered[0]] * 2).seed == 1
    elsewhere = replace(artifact, fingerprint=tuple(2 * value for value in artifact.fingerprint))
    for other, words in (
        (red, "has a tail of 5 and 'a red cat' 3"),
        (appended, "has placement replace and 'a standing dog' append"),
        (elsewhere, "whose weights differ"),
    ):
        with pytest.raises(ArtifactError, match=words):
            hiper.average([artifact, other])
    with pytest.warns(HiperWarning, match="different checkpoints"):
        hiper.combine([artifact, elsewhere])


def test_numbers_that_cannot_be_meant(sd1: SdBackbone, artifact: Artifact, red: Artifact) -> None:
    with pytest.raises(OptionError, match="3 strengths for 2 artifacts"):
        hiper.edit(sd1, [artifact, red], SENTENCE, strength=[1, 2, 3])
    with pytest.raises(OptionError, match="strength is 11"):
        hiper.combine([artifact, red], strength=[1, 11])
    with pytest.raises(OptionError, match="1 weights for 2"):
        hiper.average([artifact, artifact], weights=[1])
    with pytest.raises(OptionError, match="weight is -1"):
        hiper.average([artifact, artifact], weights=[1, -1])
    with pytest.raises(OptionError, match="all weights are 0"):
        hiper.average([artifact, artifact], weights=[0, 0])


# the command line


@pytest.fixture
def other_tail(tail: Path, tmp_path: Path) -> Path:
    artifact = Artifact.load(tail)
    changed = replace(artifact, caption="a red cat", tensors={"tail": artifact.tensors["tail"].flip(0)})
    return changed.save(tmp_path / "other.safetensors")


@pytest.mark.slow
def test_edit_with_several_files_and_draw_again(
    cli: Cli, tail: Path, other_tail: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words: list[str | Path] = ["edit", tail, SENTENCE, "--with", other_tail, "--with-strength", "0.4"]
    words += [
        *("--negative", other_tail, "--negative-strength", "0.3", "--out", out),
        *("--num-inference-steps", "2", "--json"),
    ]
    done = cli(*words)
    assert done.status == 0, done.err
    record = json.loads(done.out)
    assert (record["with"], record["negative"]) == ([str(other_tail)], str(other_tail))
    shown = json.loads(cli("show", record["images"][0]["path"], "--json").out)
    assert shown["caption"] == "a standing dog + a red cat"
    parts = json.loads(shown["artifact"]["extra"][PARTS])
    assert [(part["caption"], part["strength"]) for part in parts] == [
        ("a standing dog", 0.8),
        ("a red cat", 0.4),
        ("a red cat", 0.3),
    ]
    backbone = hiper.load_backbone(Artifact.load(tail).backbone, device="cpu")
    loaded = [Artifact.load(path) for path in (tail, other_tail)]
    same = hiper.edit(
        backbone,
        loaded,
        SENTENCE,
        strength=[None, 0.4],
        negative=loaded[1],
        negative_strength=0.3,
        num_inference_steps=2,
    )
    with Image.open(record["images"][0]["path"]) as drawn:
        assert drawn.convert("RGB").tobytes() == same.images[0].tobytes()


def test_average_writes_one_file(cli: Cli, tail: Path, other_tail: Path, tmp_path: Path) -> None:
    out = tmp_path / "mean.safetensors"
    done = cli("average", tail, other_tail, "--weight", "1", "--weight", "3", "--out", out, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["caption"] == "a standing dog + a red cat"
    first = Artifact.load(tail).tensors["tail"]
    assert torch.allclose(rows_of(Artifact.load(out)), 0.25 * first + 0.75 * first.flip(0))
    cli("average", tail, "--out", out).refusal("exists")


@pytest.mark.slow
def test_refusals_on_the_command_line(cli: Cli, tail: Path, other_tail: Path, tmp_path: Path) -> None:
    foreign = replace(Artifact.load(tail), method="imagic").save(tmp_path / "foreign.safetensors")
    start: list[str | Path] = ["edit", tail, SENTENCE, "--out", tmp_path / "out"]
    cli(*start, "--with", foreign).refusal("learnt by imagic", "allowed are tails of method hiper")
    cli(*start, "--negative", foreign).refusal("learnt by imagic")
    cli(*start, "--with-strength", "1").refusal("1 --with-strength for 0 --with")
    cli(*start, "--negative-strength", "1").refusal("without --negative")
    cli(*start, "--with", tmp_path / "none.safetensors").refusal("none.safetensors")
    cli("average", tail, foreign, "--out", tmp_path / "mean.safetensors").refusal("learnt by imagic")
    assert not (tmp_path / "mean.safetensors").exists()
