"""Editing: any sentence, with what was learnt, into pictures."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from PIL import Image

import hiper
from hiper.artifacts import Artifact, EditResult
from hiper.backbones.sd import SdBackbone
from hiper.errors import ArtifactError, CaptionError, HiperError, HiperWarning, OptionError
from hiper.methods import get_method
from hiper.seeds import generator
from tests import tiny

FAST: dict[str, Any] = {"num_inference_steps": 3}
SENTENCE = "a sitting dog"


@pytest.fixture(scope="module")
def appended(sd1: SdBackbone, subject: hiper.Subject) -> Artifact:
    return hiper.fit(sd1, subject, num_train_steps=12, learning_rate=0.05, placement="append")


def pixels(result: EditResult) -> list[bytes]:
    return [image.tobytes() for image in result.images]


def likeness(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of two pictures in levels of 255."""
    return max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True))


def test_the_rows_are_head_and_scaled_tail(sd1: SdBackbone, artifact: Artifact) -> None:
    with get_method("hiper").attach(sd1, artifact, 0.5) as attached:
        rows = attached.encode(SENTENCE).token_embeddings
    plain = sd1.encode(SENTENCE).token_embeddings
    assert torch.equal(rows[:, :-5], plain[:, :-5])
    assert torch.equal(rows[0, -5:], 0.5 * artifact.tensors["tail"])


def test_a_result_says_how_to_draw_it_again(sd1: SdBackbone, artifact: Artifact) -> None:
    result = hiper.edit(sd1, artifact, SENTENCE, seeds=[3, 4], **FAST)
    assert (result.prompt, result.seeds, result.flagged, result.notes) == (SENTENCE, (3, 4), (), ())
    settings = result.settings
    assert (settings.strength, settings.guidance_scale, settings.scheduler) == (0.8, 7.5, "ddim")
    assert (settings.num_inference_steps, settings.height, settings.width) == (
        3,
        tiny.RESOLUTION,
        tiny.RESOLUTION,
    )
    assert [image.size for image in result.images] == [(32, 32)] * 2
    again = hiper.edit(sd1, artifact, result.prompt, seeds=result.seeds, strength=settings.strength, **FAST)
    assert pixels(again) == pixels(result)


@pytest.mark.slow
def test_a_picture_depends_on_its_seed_and_not_on_its_batch(sd1: SdBackbone, artifact: Artifact) -> None:
    together = hiper.edit(sd1, artifact, SENTENCE, seeds=range(5), batch_size=5, **FAST)
    split = hiper.edit(sd1, artifact, SENTENCE, seeds=range(5), batch_size=2, **FAST)
    alone = hiper.edit(sd1, artifact, SENTENCE, seeds=[3], **FAST)
    for one, other in zip(together.images, split.images, strict=True):
        assert likeness(one, other) <= 1
    assert likeness(together.images[3], alone.images[0]) <= 1
    assert len(set(pixels(together))) == 5


def test_the_tail_changes_the_picture_and_strength_scales_it(sd1: SdBackbone, artifact: Artifact) -> None:
    drawn = {
        strength: pixels(hiper.edit(sd1, artifact, SENTENCE, strength=strength, **FAST))[0]
        for strength in (0, 0.8, 1)
    }
    assert len(set(drawn.values())) == 3


@pytest.mark.parametrize("placement", ["replace", "append"])
def test_strength_0_draws_the_sentence_alone(sd1: SdBackbone, artifact: Artifact, placement: str) -> None:
    """Rows of zeros would take their share of attention."""
    own = replace(artifact, options={**artifact.options, "placement": placement})
    with get_method("hiper").attach(sd1, own, 0) as attached:
        assert torch.equal(attached.encode(SENTENCE).token_embeddings, sd1.encode(SENTENCE).token_embeddings)
    negative = replace(own, tensors={**own.tensors, "negative": own.tensors["tail"]})
    assert hiper.edit(sd1, negative, SENTENCE, strength=0, **FAST).images


def test_the_artifacts_own_settings_are_the_default(sd1: SdBackbone, artifact: Artifact) -> None:
    own: dict[str, float | str] = {
        "strength": 0.3,
        "guidance_scale": 2.0,
        "num_inference_steps": 2,
        "scheduler": "pndm",
    }
    earlier: dict[str, float | str] = {"strength": 0.3, "guidance": 2.0, "steps": 2, "scheduler": "pndm"}
    for each in (own, earlier):
        settings = hiper.edit(sd1, replace(artifact, edit=each), SENTENCE).settings
        assert own.items() <= asdict(settings).items()
    bare = replace(artifact, edit={"num_inference_steps": 2})
    settings = hiper.edit(sd1, bare, SENTENCE).settings
    assert (settings.strength, settings.guidance_scale, settings.scheduler) == (0.8, 7.5, "ddim")


def test_the_backbone_is_what_it_was_after_an_edit_and_after_a_failure(
    sd1: SdBackbone, artifact: Artifact
) -> None:
    before, scheduler = sd1.weights_sha256(), sd1._pipe.scheduler
    hiper.edit(sd1, artifact, SENTENCE, **FAST)

    def fail(*_: int) -> None:
        raise KeyError("the callback failed")

    with pytest.raises(KeyError):
        hiper.edit(sd1, artifact, SENTENCE, callback=fail, **FAST)
    assert sd1.weights_sha256() == before
    assert sd1._pipe.scheduler is scheduler


def test_the_callback_counts_over_all_batches(sd1: SdBackbone, artifact: Artifact) -> None:
    calls: list[tuple[int, int]] = []
    hiper.edit(
        sd1,
        artifact,
        SENTENCE,
        seeds=range(3),
        batch_size=2,
        callback=lambda *call: calls.append(call),
        **FAST,
    )
    assert calls == [(done, 6) for done in range(1, 7)]


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["artifact", "appended"])
@pytest.mark.parametrize("negative", ["", "a red cat"])
def test_the_rows_for_a_pipeline_of_ones_own_draw_the_same(
    tail: str, negative: str, request: pytest.FixtureRequest, sd1: SdBackbone
) -> None:
    learnt = request.getfixturevalue(tail)
    expected = hiper.edit(
        sd1, learnt, SENTENCE, seeds=[7], scheduler="pndm", negative_prompt=negative, keep=0, **FAST
    )
    pipe = tiny.pipeline("sd1")
    rows = hiper.prompt_embeds(pipe, learnt, SENTENCE, negative_prompt=negative)
    images = pipe(**rows, generator=generator(7), num_inference_steps=3).images
    assert images[0].tobytes() == expected.images[0].tobytes()
    same = hiper.prompt_embeds(sd1, learnt, SENTENCE, negative_prompt=negative)
    assert all(torch.equal(rows[name], same[name]) for name in rows)


def test_the_rows_for_a_pipeline_have_its_dtype(artifact: Artifact) -> None:
    rows = hiper.prompt_embeds(tiny.pipeline("sd1").to(torch.bfloat16), artifact, SENTENCE, strength=1.0)
    assert {tensor.dtype for tensor in rows.values()} == {torch.bfloat16}
    assert {tensor.shape for tensor in rows.values()} == {torch.Size([1, 77, tiny.EMBED])}


def test_an_appended_tail_lengthens_both_branches(sd1: SdBackbone, appended: Artifact) -> None:
    rows = hiper.prompt_embeds(sd1, appended, SENTENCE)
    assert {tensor.shape[1] for tensor in rows.values()} == {82}
    negative = sd1.encode("").token_embeddings
    assert torch.equal(rows["negative_prompt_embeds"][:, :77], negative)
    assert torch.equal(rows["negative_prompt_embeds"][:, 77:], negative[:, -5:])


@pytest.mark.slow
def test_the_negative_prompt_takes_part(sd1: SdBackbone, artifact: Artifact) -> None:
    plain = hiper.edit(sd1, artifact, SENTENCE, seeds=[1, 2], **FAST)
    against = hiper.edit(sd1, artifact, SENTENCE, seeds=[1, 2], negative_prompt="a red cat", **FAST)
    assert pixels(plain) != pixels(against)
    assert pixels(against) == pixels(
        hiper.edit(sd1, artifact, SENTENCE, seeds=[1, 2], negative_prompt=["a red cat"], **FAST)
    )
    each = hiper.edit(sd1, artifact, SENTENCE, seeds=[1, 2], negative_prompt=["", "a red cat"], **FAST)
    assert pixels(each) == [pixels(plain)[0], pixels(against)[1]]
    assert each.settings.negative_prompt == ("", "a red cat")
    split = hiper.edit(
        sd1, artifact, SENTENCE, seeds=[1, 2], negative_prompt=["", "a red cat"], batch_size=1, **FAST
    )
    assert all(likeness(a, b) <= 1 for a, b in zip(each.images, split.images, strict=True))
    with pytest.raises(OptionError, match="3 negative prompts for 2 seeds"):
        hiper.edit(sd1, artifact, SENTENCE, seeds=[1, 2], negative_prompt=["", "", ""], **FAST)


def test_a_long_sentence_is_warned_of_with_its_lost_words(sd1: SdBackbone, artifact: Artifact) -> None:
    with pytest.warns(HiperWarning, match=r"overwrites cat grass \(the end mark\).*placement=append"):
        result = hiper.edit(sd1, artifact, " ".join(["dog"] * 71 + ["cat", "grass"]), **FAST)
    assert len(result.notes) == 1


def test_an_appended_tail_loses_no_word(sd1: SdBackbone, appended: Artifact) -> None:
    assert hiper.edit(sd1, appended, " ".join(["dog"] * 75), **FAST).notes == ()
    with pytest.warns(HiperWarning, match="the end of the sentence was cut: cat"):
        hiper.edit(sd1, appended, " ".join(["dog"] * 75 + ["cat"]), **FAST)


def test_a_size_is_rounded_and_said(sd1: SdBackbone, artifact: Artifact) -> None:
    with pytest.warns(HiperWarning, match="height 37 is no multiple of 8; 40 was drawn"):
        result = hiper.edit(sd1, artifact, SENTENCE, height=37, width=24, keep=0, **FAST)
    assert result.images[0].size == (24, 40)
    assert result.notes == ("height 37 is no multiple of 8; 40 was drawn",)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strength": math.nan}, "strength is nan; allowed are numbers from -10 to 10"),
        ({"strength": math.inf}, "strength is inf"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan; allowed are numbers from 0 to 100"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; allowed are whole numbers from 1 to 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps is 1001"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5"),
        ({"num_inference_steps": True}, "num_inference_steps is True"),
        ({"height": 0}, "height is 0; allowed are whole numbers from 8 to 8192"),
        ({"width": math.nan}, "width is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seeds": []}, "number of seeds is 0"),
        ({"seeds": [2**63]}, "allowed are whole numbers from 0 to"),
        ({"seeds": [-2]}, "or -1 for a random one"),
        ({"seeds": ["abc"]}, "seed is 'abc'"),
        ({"scheduler": "eulr"}, "did you mean euler?"),
    ],
)
def test_what_is_not_allowed_is_refused(
    sd1: SdBackbone, artifact: Artifact, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError) as refusal:
        hiper.edit(sd1, artifact, SENTENCE, **{**FAST, **settings})
    assert words in str(refusal.value)


def test_a_random_seed_is_drawn_and_told(sd1: SdBackbone, artifact: Artifact) -> None:
    result = hiper.edit(sd1, artifact, SENTENCE, seeds=[-1, -1], **FAST)
    assert all(0 <= seed < 2**32 for seed in result.seeds)
    assert result.seeds[0] != result.seeds[1]
    assert pixels(hiper.edit(sd1, artifact, SENTENCE, seeds=result.seeds, **FAST)) == pixels(result)


def test_a_strength_beyond_reason_is_no_black_picture(sd1: SdBackbone, artifact: Artifact) -> None:
    wild = replace(artifact, tensors={"tail": artifact.tensors["tail"] * 1e38})
    with pytest.raises(HiperError, match=r"NaN|not finite"):
        hiper.edit(sd1, wild, SENTENCE, strength=10, **FAST)


def test_another_family_is_refused_and_another_checkpoint_warned_of(
    sd1: SdBackbone, artifact: Artifact
) -> None:
    with pytest.raises(ArtifactError, match="fit again on this one"):
        hiper.edit(sd1, replace(artifact, family="sd2"), SENTENCE, **FAST)
    other = SdBackbone.from_pipeline(tiny.pipeline("sd1", seed=1))
    with pytest.warns(HiperWarning, match="whose weights differ"):
        hiper.edit(other, artifact, SENTENCE, **FAST)


def test_prompts_are_cleaned_and_capped(sd1: SdBackbone, artifact: Artifact) -> None:
    with pytest.warns(HiperWarning, match="invisible control characters"):
        assert hiper.edit(sd1, artifact, "a sitting\0 dog", **FAST).prompt == SENTENCE
    with pytest.raises(CaptionError, match="at most 10000"):
        hiper.edit(sd1, artifact, "a" * 10_001, **FAST)


@pytest.mark.parametrize("keep", [0, 0.5])
def test_flagged_pictures_are_told_with_their_seeds(artifact: Artifact, keep: float) -> None:
    from tests.test_backbone_sd import strict_checker

    backbone = SdBackbone.from_pipeline(tiny.pipeline("sd1", **strict_checker()))
    with pytest.warns(HiperWarning, match="safety checker .* seed 6"):
        result = hiper.edit(backbone, artifact, SENTENCE, seeds=[6], keep=keep, **FAST)
    assert result.flagged == (6,)
    assert result.images[0].getextrema() == ((0, 0),) * 3
