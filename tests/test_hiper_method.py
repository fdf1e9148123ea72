"""Fitting a tail on tiny real models."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import hiper
from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.backbones.sd import SdBackbone
from hiper.conditioning import Placement, take_tail
from hiper.conditioning.embeddings import tail_places
from hiper.errors import ArtifactError, FitError, HiperWarning, ImageError, OptionError, ResumeError
from hiper.images import Subject
from hiper.methods import HiPer, get_method
from hiper.options import method_names
from hiper.training import EVALUATIONS, CheckpointFile, ProgressEvent, mask_weight
from tests import tiny

ROOT = Path(__file__).parent.parent
QUICK: dict[str, Any] = {"num_train_steps": 12, "batch": 4, "learning_rate": 0.05, "sampling": "stratified"}


@pytest.mark.slow
def test_a_fit_lowers_the_loss_and_says_what_it_did(backbone: SdBackbone, subject: Subject) -> None:
    records: list[ProgressEvent] = []
    artifact = hiper.fit(backbone, subject, callback=records.append, **QUICK)
    assert artifact.tensors["tail"].shape == (5, tiny.EMBED)
    assert artifact.figures["loss_after"] < artifact.figures["loss_before"]
    assert [record.step for record in records] == list(range(1, 13))
    assert (artifact.method, artifact.caption) == ("hiper", "a standing dog")
    assert (artifact.family, artifact.backbone) == (backbone.family, backbone.id)
    assert (artifact.image_sha256, artifact.fingerprint) == (subject.sha256, backbone.fingerprint())
    assert artifact.options["num_train_steps"] == 12
    assert artifact.edit == {
        "strength": 0.8,
        "guidance_scale": 7.5,
        "num_inference_steps": 50,
        "scheduler": "ddim",
        "keep_source": 0.5,
    }
    assert set(artifact.versions) == {"hiper", "torch", "diffusers", "transformers"}


def test_the_fit_starts_from_the_captions_own_last_rows(sd1: SdBackbone, subject: Subject) -> None:
    # one step of Adam moves every number by the learning rate, up or down, or less where there is no slope
    fitted = hiper.fit(sd1, subject, preset="paper", num_train_steps=1, learning_rate=0.01).tensors["tail"]
    moved = (fitted - take_tail(sd1.encode("a standing dog"), 5)).abs()
    assert moved.median() == pytest.approx(0.01, abs=1e-4)
    assert moved.max() < 0.0101


@pytest.mark.slow
def test_a_random_seed_is_drawn_and_kept(sd1: SdBackbone, subject: Subject) -> None:
    artifact = hiper.fit(sd1, subject, seed=-1, **QUICK)
    assert artifact.seed == artifact.options["seed"]
    assert artifact.seed >= 0
    again, other = (hiper.fit(sd1, subject, seed=artifact.seed + i, **QUICK).tensors["tail"] for i in (0, 1))
    assert torch.equal(artifact.tensors["tail"], again)
    assert not torch.equal(again, other)


@pytest.mark.slow
def test_kept_rows_are_as_long_as_the_captions_own(sd1: SdBackbone, subject: Subject) -> None:
    own = take_tail(sd1.encode("a standing dog"), 5).norm(dim=1)
    for initial in ("caption", "zeros", "random"):
        rows = hiper.fit(sd1, subject, norm="kept", init=initial, **QUICK).tensors["tail"]
        assert torch.allclose(rows.norm(dim=1), own, rtol=1e-5)
    free = hiper.fit(sd1, subject, norm="free", **QUICK).tensors["tail"]
    assert not torch.allclose(free.norm(dim=1), own, rtol=1e-2)


@pytest.mark.slow
def test_a_step_in_units_of_the_rows_grows_with_them(subject: Subject) -> None:
    """A text encoder whose rows are three times as long gets three times the step."""
    moved = []
    for factor in (1.0, 3.0):
        pipe = tiny.pipeline()
        with torch.no_grad():
            pipe.text_encoder.final_layer_norm.weight.mul_(factor)
            pipe.text_encoder.final_layer_norm.bias.mul_(factor)
        backbone = SdBackbone.from_pipeline(pipe)
        own = take_tail(backbone.encode("a standing dog"), 5)
        fitted = hiper.fit(
            backbone, subject, num_train_steps=1, learning_rate=0.01, unit="embedding_rms", norm="free"
        ).tensors["tail"]
        moved.append(float((fitted - own).abs().median()))
        assert moved[-1] == pytest.approx(0.01 * float(own.square().mean().sqrt()), rel=0.02)
    assert moved[1] == pytest.approx(3 * moved[0], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("tail", [1, 64])
def test_any_number_of_rows_may_be_learnt(sd1: SdBackbone, subject: Subject, tail: int) -> None:
    assert hiper.fit(sd1, subject, tail=tail, **QUICK).tensors["tail"].shape == (tail, tiny.EMBED)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["append", "after-words", "random"])
@pytest.mark.filterwarnings("ignore:.*the tail overwrites")
def test_rows_are_learnt_and_used_wherever_they_are_placed(
    sd1: SdBackbone, subject: Subject, placement: Placement, tmp_path: Path
) -> None:
    made = hiper.fit(sd1, subject, placement=placement, seed=11, **QUICK)
    assert made.figures["loss_after"] < made.figures["loss_before"]
    artifact = Artifact.load(made.save(tmp_path / "tail.safetensors"))
    plain = sd1.encode("a cat on the grass")
    with HiPer().attach(sd1, artifact, 0.8) as attached:
        placed = attached.encode(plain.prompt)
    assert placed.tail == tail_places(plain, 5, placement, seed=11)
    assert torch.equal(placed.token_embeddings[0, list(placed.tail)], artifact.tensors["tail"] * 0.8)
    others = [place for place in range(77) if place not in placed.tail]
    assert torch.equal(placed.token_embeddings[0, others], plain.token_embeddings[0, others])


@pytest.mark.slow
def test_the_tail_may_start_elsewhere(sd1: SdBackbone, subject: Subject) -> None:
    """Rows that start alike get the same gradient, so they stay alike."""
    for initial, alike in (("zeros", True), ("padding-mean", True), ("random", False)):
        artifact = hiper.fit(sd1, subject, init=initial, **QUICK)
        tail = artifact.tensors["tail"]
        assert artifact.options["init"] == initial
        assert artifact.figures["loss_after"] < artifact.figures["loss_before"]
        assert torch.allclose(tail, tail[:1].expand(5, -1), atol=1e-3) is alike


@pytest.mark.slow
def test_a_tail_placed_in_a_way_not_known_here_is_refused(sd1: SdBackbone, subject: Subject) -> None:
    artifact = hiper.fit(sd1, subject, **QUICK)
    later = replace(artifact, options={**artifact.options, "placement": "woven"})
    with pytest.raises(ArtifactError, match="'woven'; allowed are replace, append"):
        hiper.edit(sd1, later, "a sitting dog", num_inference_steps=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the fit did not lower")
def test_the_range_of_noise_levels_is_kept(subject: Subject) -> None:
    seen: list[int] = []

    class Watched(torch.nn.Module):
        def __init__(self, unet: torch.nn.Module) -> None:
            super().__init__()
            unet.register_forward_hook(lambda module, inputs, output: seen.extend(inputs[1].tolist()))

    pipe = tiny.pipeline()
    Watched(pipe.unet)
    hiper.fit(SdBackbone.from_pipeline(pipe), subject, t_min=0.2, t_max=0.4, **QUICK)
    assert 200 <= min(seen) <= max(seen) < 400
    assert len(seen) == 2 * EVALUATIONS + 12 * 4


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_nearly_the_same_float32_tail(subject: Subject, dtype: torch.dtype) -> None:
    full, half = (
        hiper.fit(SdBackbone.from_pipeline(tiny.pipeline().to(kind)), subject, **QUICK)
        for kind in (torch.float32, dtype)
    )
    assert half.tensors["tail"].dtype == torch.float32
    start = take_tail(SdBackbone.from_pipeline(tiny.pipeline()).encode("a standing dog"), 5)
    moved, same = full.tensors["tail"] - start, half.tensors["tail"] - start
    likeness = torch.nn.functional.cosine_similarity(moved.flatten(), same.flatten(), dim=0)
    assert likeness > 0.9


def test_a_model_that_does_not_look_at_its_text_is_told(subject: Subject) -> None:
    pipe = tiny.pipeline()
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if "attn2.to_out" in name:
                weight.zero_()
    with pytest.raises(FitError, match="tail received no gradient in the first step"):
        hiper.fit(SdBackbone.from_pipeline(pipe), subject, **QUICK)


def test_a_model_of_nan_ends_in_words(subject: Subject) -> None:
    pipe = tiny.pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(torch.nan)
    backbone = SdBackbone.from_pipeline(pipe)
    before = backbone.weights_sha256()
    with pytest.raises(FitError, match="left the finite numbers 3 times"):
        hiper.fit(backbone, subject, **QUICK)
    assert backbone.weights_sha256() == before


@pytest.mark.slow
def test_an_overwritten_caption_is_warned_of(sd1: SdBackbone) -> None:
    long = Subject.from_image(tiny.picture(), caption=" ".join(["a"] * 71 + ["red", "dog"]))
    with pytest.warns(HiperWarning, match=r"the tail overwrites red dog .*placement=append"):
        hiper.fit(sd1, long, **QUICK)
    hiper.fit(sd1, long, placement="append", **QUICK)  # warns of nothing


def half_mask(side: int = 64) -> Image.Image:
    """White on the left half."""
    mask = Image.new("L", (side, side))
    mask.paste(255, (0, 0, side // 2, side))
    return mask


def test_a_mask_is_brought_to_the_latents_size(sd1: SdBackbone) -> None:
    weight = mask_weight(half_mask(), sd1, "crop")
    assert weight.shape == (1, 1, 8, 8)
    assert weight.mean() == pytest.approx(1)
    assert weight[0, 0, :, :3].min() > 1.9
    assert weight[0, 0, :, 5:].max() < 0.1


@pytest.mark.slow
def test_a_mask_decides_what_is_learnt(sd1: SdBackbone) -> None:
    picture = tiny.picture()
    masked = Subject.from_image(picture, caption="a standing dog", mask=half_mask())
    plain = Subject.from_image(picture, caption="a standing dog")
    tails = {
        "masked": hiper.fit(sd1, masked, **QUICK).tensors["tail"],
        "ignored": hiper.fit(sd1, masked, mask=False, **QUICK).tensors["tail"],
        "plain": hiper.fit(sd1, plain, **QUICK).tensors["tail"],
    }
    assert torch.equal(tails["ignored"], tails["plain"])
    assert not torch.equal(tails["masked"], tails["plain"])


@pytest.mark.slow
def test_a_full_mask_is_no_mask(sd1: SdBackbone) -> None:
    picture = tiny.picture()
    full = Subject.from_image(picture, caption="a dog", mask=Image.new("L", picture.size, 255))
    plain = Subject.from_image(picture, caption="a dog")
    tails = [hiper.fit(sd1, subject, **QUICK).tensors["tail"] for subject in (full, plain)]
    assert torch.allclose(tails[0], tails[1], atol=1e-3)


def test_a_mask_outside_of_the_square_is_refused(sd1: SdBackbone) -> None:
    mask = Image.new("L", (128, 64))
    mask.paste(255, (0, 0, 20, 64))
    with pytest.raises(ImageError, match="selects nothing inside the square"):
        mask_weight(mask, sd1, "crop")
    assert mask_weight(mask, sd1, "pad").mean() == pytest.approx(1)


def test_methods_are_found_by_name() -> None:
    assert "hiper" in method_names()
    assert isinstance(get_method("hiper"), HiPer)
    with pytest.raises(OptionError, match=r"method is 'hyper'; allowed are .*\(did you mean hiper\?\)"):
        get_method("hyper")


def test_an_impossible_pair_is_refused_up_front(
    sd1: SdBackbone, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution = tmp_path / "other-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text("[hiper.methods]\nrewriter = other_method:Rewriter\n")
    (tmp_path / "other_method.py").write_text(
        textwrap.dedent("""
        from hiper.methods.hiper import PRESETS, HiPerOptions
        from hiper.methods.base import Method

        class Rewriter(Method):
            name, options_type, presets = "rewriter", HiPerOptions, PRESETS
            requires = frozenset({"token_embeddings", "wings"})

            def fit(self, *args, **settings):
                raise AssertionError

            def attach(self, *args):
                raise AssertionError
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "rewriter" in method_names()
    with pytest.raises(OptionError, match="method rewriter requires wings, which"):
        hiper.fit(sd1, subject, method="rewriter")


@pytest.mark.slow
def test_a_method_written_for_an_earlier_release_still_fits(
    sd1: SdBackbone, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution = tmp_path / "earlier-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: earlier\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text("[hiper.methods]\nearlier = earlier_method:Earlier\n")
    (tmp_path / "earlier_method.py").write_text(
        textwrap.dedent("""
        from hiper.methods.hiper import PRESETS, HiPer, HiPerOptions
        from hiper.methods.base import Method

        class Earlier(Method):
            name, options_type, presets = "earlier", HiPerOptions, PRESETS
            needs = frozenset({"rows"})

            def fit(self, backbone, subject, options, *, callback=None, checkpoint=None, should_stop=None):
                assert should_stop() is None
                return HiPer().fit(backbone, subject, options)

            def applied(self, backbone, artifact, strength):
                return HiPer().attach(backbone, artifact, strength)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(HiperWarning, match="applied is attach now"):
        learnt = hiper.fit(sd1, subject, method="earlier", should_stop=lambda: None, **QUICK)
    assert torch.equal(learnt.tensors["tail"], hiper.fit(sd1, subject, **QUICK).tensors["tail"])
    with pytest.warns(HiperWarning, match="applied is attach now"):
        hiper.edit(sd1, replace(learnt, method="earlier"), "a sitting dog", num_inference_steps=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tail": 4}, "tail was 5 and is 4"),
        ({"seed": 9}, "seed was 0 and is 9"),
        ({"num_train_steps": 13}, "num_train_steps was 12"),
    ],
)
def test_other_options_do_not_resume(
    sd1: SdBackbone, subject: Subject, tmp_path: Path, change: dict[str, int], field: str
) -> None:
    checkpoint = CheckpointFile(path=tmp_path / "fit.checkpoint", resume=True)
    hiper.fit(sd1, subject, checkpoint=checkpoint, **QUICK)
    with pytest.raises(ResumeError, match=field):
        hiper.fit(sd1, subject, checkpoint=checkpoint, **{**QUICK, **change})


@pytest.mark.slow
def test_another_picture_or_model_does_not_resume(
    sd1: SdBackbone, sd2: Backbone, subject: Subject, tmp_path: Path
) -> None:
    checkpoint = CheckpointFile(path=tmp_path / "fit.checkpoint", resume=True)
    hiper.fit(sd1, subject, checkpoint=checkpoint, **QUICK)
    other = Subject.from_image(tiny.picture(80), caption="a standing dog")
    with pytest.raises(ResumeError, match="image was"):
        hiper.fit(sd1, other, checkpoint=checkpoint, **QUICK)
    with pytest.raises(ResumeError, match="objective was 'epsilon' and is 'v_prediction'"):
        hiper.fit(sd2, subject, checkpoint=checkpoint, **QUICK)  # of the same weights
    with pytest.raises(ResumeError, match="backbone was"):
        hiper.fit(SdBackbone.from_pipeline(tiny.pipeline(seed=1)), subject, checkpoint=checkpoint, **QUICK)


@pytest.mark.slow
def test_what_only_editing_uses_may_change_on_resuming(
    sd1: SdBackbone, subject: Subject, tmp_path: Path
) -> None:
    checkpoint = CheckpointFile(path=tmp_path / "fit.checkpoint", resume=True)
    hiper.fit(sd1, subject, checkpoint=checkpoint, **QUICK)
    assert hiper.fit(sd1, subject, checkpoint=checkpoint, strength=1.0, **QUICK).edit["strength"] == 1.0


def test_the_loss_is_the_weighted_mean_of_squares(sd1: SdBackbone) -> None:
    from hiper.seeds import generator
    from hiper.training import Denoising
    from hiper.training.noise_levels import draw_levels

    sentence = sd1.encode("a dog")
    latents = torch.randn(1, 4, 8, 8, generator=generator(0))
    weight = mask_weight(half_mask(), sd1, "crop")
    settings: dict[str, Any] = {
        "batch": 3,
        "bounds": (0, 1000),
        "sampling": "uniform",
        "conditioning": lambda _: sentence,
    }
    objective = Denoising(backbone=sd1, latents=latents, weight=weight, **settings)
    random = generator(5)
    noise = torch.randn(3, 4, 8, 8, generator=random)
    t = draw_levels(random, 3, (0, 1000), "uniform")
    error = sd1.predict(sd1.add_noise(latents, noise, t).noisy, t, sentence) - noise
    expected = (error.square() * weight).sum() / (3 * 4 * weight.sum())
    assert torch.allclose(objective.loss({}, generator(5)), expected)
