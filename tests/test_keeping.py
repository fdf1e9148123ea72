"""Edits that keep what the sentence does not change, against FlowEdit written out on plain networks."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder, Encoder
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook

import hiper
from hiper.backbones import Backbone
from hiper.backbones.sd import SdBackbone
from hiper.errors import ArtifactError, HiperWarning, ImageError, OptionError
from hiper.images import fit_square
from hiper.inference import prepare_picture
from hiper.inference.edited_picture import Placement
from hiper.inference.keeping import CHANGED, SOURCE_SHARE, TARGET_SHARE, UNCHANGED
from hiper.methods import levels
from hiper.seeds import generator
from tests import tiny, tiny_families
from tests.conftest import Cli

CAPTION, SENTENCE = "a standing dog", "a sitting dog"
STEPS, GUIDANCE, SEED = 4, 3.0, 7


@pytest.fixture(scope="module")
def learnt(sd1: SdBackbone, subject: hiper.Subject) -> hiper.Artifact:
    return hiper.fit(sd1, subject, num_train_steps=3, learning_rate=0.05)


def test_the_source_is_that_of_the_picture(
    sd1: SdBackbone, subject: hiper.Subject, learnt: hiper.Artifact
) -> None:
    square = fit_square(subject.image, sd1.resolution)
    assert learnt.source is not None
    assert torch.equal(learnt.source, sd1.latents(square, generator(0)).half())


def test_everything_is_kept_at_one(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    assert learnt.source is not None
    kept = hiper.edit(sd1, learnt, SENTENCE, seeds=[1, 2], keep=1.0).images
    source = sd1.decode(learnt.source.float())[0]
    assert [image.tobytes() for image in kept] == [source.tobytes()] * 2


def test_nothing_is_kept_at_zero_and_half_by_default(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    def drawn(artifact: hiper.Artifact, **keep: Any) -> hiper.EditResult:
        return hiper.edit(sd1, artifact, SENTENCE, num_inference_steps=3, **keep)

    with pytest.warns(HiperWarning, match="no latents"):
        anew = drawn(replace(learnt, source=None))
    assert drawn(learnt, keep=0.0).images[0].tobytes() == anew.images[0].tobytes()
    default = drawn(learnt)
    assert default.settings.keep == learnt.edit["keep_source"] == 0.5
    assert default.images[0].tobytes() == drawn(learnt, keep=0.5).images[0].tobytes()
    assert not default.notes


@pytest.mark.filterwarnings("ignore:pictures of 64 x 32")
def test_the_default_stands_in_nobody_s_way(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    with pytest.warns(HiperWarning, match="drawn anew"):
        wide = hiper.edit(sd1, learnt, SENTENCE, num_inference_steps=1, width=2 * sd1.resolution)
    assert wide.settings.keep == 0
    assert (
        hiper.edit(sd1, replace(learnt, edit={**learnt.edit, "keep_source": 0.0}), SENTENCE).settings.keep
        == 0
    )


def flowedit(backbone: SdBackbone, artifact: hiper.Artifact, start: int) -> torch.Tensor:
    """Algorithm 1 of arXiv:2412.08629 for a network that predicts noise, called directly."""
    unet = backbone._pipe.unet
    alphas = backbone._pipe.scheduler.alphas_cumprod
    empty = backbone.encode("").token_embeddings
    with_tail = [backbone.encode(text).token_embeddings.clone() for text in (CAPTION, SENTENCE)]
    for rows in with_tail:
        rows[0, -5:] = 0.8 * artifact.tensors["tail"]

    def velocity(z: torch.Tensor, t: int, rows: torch.Tensor, guidance: float) -> torch.Tensor:
        signal, sigma = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
        noisy = z * (signal + sigma)
        with torch.no_grad():
            conditional, plain = (unet(noisy, torch.tensor([t]), each).sample for each in (rows, empty))
        noise = plain + guidance * (conditional - plain)
        found: torch.Tensor = noise - (noisy - sigma * noise) / signal
        return found

    path = levels(1000, STEPS)
    times = [0.0] + [
        float((1 - alphas[t]).sqrt() / (alphas[t].sqrt() + (1 - alphas[t]).sqrt())) for t in path[1:]
    ]
    assert artifact.source is not None
    x = artifact.source.float()
    z, random, moved = x.clone(), generator(SEED), torch.zeros_like(x[:, :1])
    for i in range(start, 0, -1):
        noisy = (1 - times[i]) * x + times[i] * torch.randn(x.shape, generator=random)
        edit = velocity(z + noisy - x, path[i], with_tail[1], 1 + TARGET_SHARE * (GUIDANCE - 1))
        same = velocity(noisy, path[i], with_tail[0], 1 + SOURCE_SHARE * (GUIDANCE - 1))
        moved += (edit - same).square().sum(1, keepdim=True).sqrt()
        z = z + (times[i - 1] - times[i]) * (edit - same)
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(moved, (1, 1, 1, 1), "replicate"), 3, 1)
    share = blurred / blurred.quantile(0.95)
    return x + ((share - UNCHANGED) / (CHANGED - UNCHANGED)).clamp(0, 1) * (z - x)


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "start"), [(0.5, 4), (0.75, 2)])
def test_an_edit_is_flowedit_with_the_tail_in_both_branches(
    sd1: SdBackbone, learnt: hiper.Artifact, keep: float, start: int
) -> None:
    ours = hiper.edit(
        sd1, learnt, SENTENCE, seeds=[3, SEED], num_inference_steps=STEPS, guidance_scale=GUIDANCE, keep=keep
    )
    expected = sd1.decode(flowedit(sd1, learnt, start))[0]
    difference = np.asarray(ours.images[1], np.int16) - np.asarray(expected, np.int16)
    assert np.abs(difference).max() <= 1


@pytest.mark.slow
def test_the_dial_goes_from_the_source_to_another_picture(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    assert learnt.source is not None
    source = np.asarray(sd1.decode(learnt.source.float())[0], float)
    away = [
        np.abs(
            np.asarray(hiper.edit(sd1, learnt, SENTENCE, num_inference_steps=6, keep=keep).images[0], float)
            - source
        ).mean()
        for keep in (1.0, 0.8, 0.5, 0.2)
    ]
    assert away == sorted(away)
    assert away[0] == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:pictures of 64 x 64")
@pytest.mark.parametrize("family", ["sdxl", "flux-dev", "sd3", "sana"])
def test_other_families_keep_as_well(family: str, subject: hiper.Subject, tmp_path: Path) -> None:
    tiny_families.pipeline(family).save_pretrained(tmp_path)
    backbone = hiper.load_backbone(tmp_path, device="cpu", resolution=tiny_families.SIDE)
    artifact = hiper.fit(
        backbone, hiper.Subject.from_image(tiny.picture(), caption="a dog"), num_train_steps=1
    )
    assert artifact.source is not None
    whole, half = (
        hiper.edit(backbone, artifact, "a cat", num_inference_steps=2, keep=keep).images[0]
        for keep in (1, 0.5)
    )
    assert whole.tobytes() == backbone.decode(artifact.source.float())[0].tobytes()
    assert half.tobytes() != whole.tobytes()


@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_guidance_and_negatives_are_ignored_where_they_are_said_to_be(
    sd1: SdBackbone, learnt: hiper.Artifact, keep: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(guidance: float, negative: str = "") -> hiper.EditResult:
        return hiper.edit(
            sd1,
            learnt,
            SENTENCE,
            num_inference_steps=3,
            keep=keep,
            guidance_scale=guidance,
            negative_prompt=negative,
        )

    none = drawn(1.0).images[0].tobytes()
    assert drawn(0.0).images[0].tobytes() == none
    assert drawn(6.0).images[0].tobytes() != none
    monkeypatch.setattr(sd1, "uses_negative_prompt", False)
    with pytest.warns(HiperWarning, match="ignored"):
        unheard = drawn(6.0, "a cat")
    assert unheard.images[0].tobytes() == none
    assert len(unheard.notes) == 2


def test_a_scheduler_is_told_to_be_ignored_by_who_asks_for_it_alone(
    sd1: SdBackbone, learnt: hiper.Artifact
) -> None:
    with pytest.warns(HiperWarning, match="'euler' is ignored"):
        result = hiper.edit(sd1, learnt, SENTENCE, num_inference_steps=1, keep=0.5, scheduler="euler")
    assert result.settings.scheduler == learnt.edit["scheduler"]
    assert not hiper.edit(sd1, learnt, SENTENCE, num_inference_steps=1, keep=0.5, scheduler="ddim").notes


@pytest.mark.parametrize(("height", "width"), [(5, 8), (8, 7), (33, 32)])
def test_a_source_of_a_size_that_is_not_drawn_is_refused(
    sd1: SdBackbone, learnt: hiper.Artifact, height: int, width: int
) -> None:
    strange = replace(learnt, source=torch.zeros(1, 4, height, width))
    with pytest.raises(OptionError, match="keep=0"):
        hiper.edit(sd1, strange, SENTENCE, keep=0.5)


@pytest.mark.parametrize("value", [1e30, float("nan")])
def test_a_source_that_is_not_finite_in_half_precision_is_refused(
    learnt: hiper.Artifact, value: float
) -> None:
    with pytest.raises(ArtifactError, match="finite"):
        replace(learnt, source=torch.full((1, 4, 8, 8), value))


def test_steps_of_a_file_that_are_no_number_are_refused(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    strange = replace(learnt, edit={**learnt.edit, "num_inference_steps": "many"})
    with pytest.raises(OptionError, match="steps is 'many'"):
        hiper.edit(sd1, strange, SENTENCE, keep=0.5)


@pytest.mark.parametrize("keep", [-0.1, 1.1, float("nan"), "much"])
def test_a_dial_out_of_range_is_refused(sd1: SdBackbone, learnt: hiper.Artifact, keep: float) -> None:
    with pytest.raises(OptionError, match="keep is"):
        hiper.edit(sd1, learnt, SENTENCE, keep=keep)


def test_another_size_than_the_source_s_is_refused(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    with pytest.raises(OptionError, match="keep=0"):
        hiper.edit(sd1, learnt, SENTENCE, keep=0.5, width=2 * sd1.resolution)


def test_a_method_that_starts_from_the_picture_itself_has_no_source_to_keep(
    sd1: SdBackbone, subject: hiper.Subject
) -> None:
    artifact = hiper.fit(sd1, subject, method="sdedit", num_inference_steps=2)
    with pytest.warns(HiperWarning, match="keep is ignored"):
        hiper.edit(sd1, artifact, SENTENCE, keep=0.5)
    with pytest.raises(OptionError, match="sdedit cannot keep"):
        hiper.edit(sd1, artifact, SENTENCE, source=subject.image)


def test_without_a_source_it_is_drawn_anew_and_said(sd1: SdBackbone, subject: hiper.Subject) -> None:
    artifact = hiper.fit(sd1, subject, num_train_steps=1, source=False)
    assert artifact.source is None
    with pytest.warns(HiperWarning, match="no latents"):
        result = hiper.edit(sd1, artifact, SENTENCE, num_inference_steps=2, keep=0.5)
    assert result.settings.keep == 0


def test_the_source_is_shared_only_where_that_is_asked_for(
    sd1: Backbone, learnt: hiper.Artifact, tmp_path: Path
) -> None:
    assert hiper.Artifact.load(learnt.save(tmp_path / "tail.safetensors")).source is not None
    for source in (False, True):
        folder = learnt.save_pretrained(tmp_path / str(source), source=source)
        assert (hiper.Artifact.from_pretrained(folder).source is not None) is source


@pytest.mark.slow
def test_a_picture_that_keeps_is_drawn_again_from_its_png(
    cli: Cli, tail: Path, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert (
        cli("edit", tail, SENTENCE, "--out", out, "--keep", "0.6", "--num-inference-steps", "3").status == 0
    )
    (picture,) = out.glob("*.png")
    again = tmp_path / "again.png"
    assert cli("rerun", picture, "--backbone", model_folder, "--out", again).status == 0
    assert Image.open(again).tobytes() == Image.open(picture).tobytes()


@pytest.fixture(scope="module")
def room() -> Image.Image:
    """A picture of another shape and size than the model's, every pixel different from its neighbours."""
    values = np.random.default_rng(1).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    return Image.fromarray(values)


def edited(backbone: SdBackbone, artifact: Any, **asked: Any) -> hiper.EditResult:
    return hiper.edit(backbone, artifact, SENTENCE, num_inference_steps=2, **asked)


@pytest.mark.parametrize("as_mask", [True, False])
@pytest.mark.parametrize("keep", [0.5, 0.2])
def test_pixels_outside_a_region_are_the_picture_s_own(
    sd1: SdBackbone, learnt: hiper.Artifact, room: Image.Image, as_mask: bool, keep: float
) -> None:
    box = (100, 20, 130, 60)
    mask = Image.new("L", room.size)
    mask.paste(255, box)
    result = edited(sd1, learnt, into=room, into_caption="a room", region=mask if as_mask else box, keep=keep)
    before, after = np.asarray(room), np.asarray(result.images[0])
    outside = np.asarray(mask) == 0
    assert after.shape == before.shape
    assert (after[outside] == before[outside]).all()
    assert (after[~outside] != before[~outside]).any()
    assert not np.asarray(result.masks[0])[outside].any()


def test_a_subject_enters_a_picture_by_the_target_s_branch_alone(
    sd1: SdBackbone, learnt: hiper.Artifact, room: Image.Image
) -> None:
    """Without a tail, the same sentence on both sides moves nothing: what enters is the tail's."""
    box = (0, 0, 90, 90)
    same = {
        "into": room.crop(box),
        "region": box,
        "into_caption": SENTENCE,
        "guidance_scale": 1.0,
        "keep": 0.5,
    }
    nothing = edited(sd1, learnt, strength=0.0, **same).images[0]
    subject = edited(sd1, learnt, strength=1.0, **same).images[0]
    square = room.crop(box).resize((sd1.resolution,) * 2, Image.Resampling.LANCZOS)
    plain = sd1.decode(sd1.latents(square, generator(0)))[0].resize((90, 90), Image.Resampling.LANCZOS)
    difference = np.abs(np.asarray(nothing.crop(box), float) - np.asarray(plain, float))[20:70, 20:70]
    assert difference.max() <= 1
    assert nothing.tobytes() != subject.tobytes()


def test_a_region_of_the_picture_that_the_file_holds(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    side = sd1.resolution
    assert learnt.source is not None
    result = edited(sd1, learnt, region=(0, 0, side // 2, side))
    held = sd1.decode(learnt.source.float())[0]
    right = (side // 2, 0, side, side)
    assert result.images[0].crop(right).tobytes() == held.crop(right).tobytes()
    assert result.images[0].tobytes() != held.tobytes()


def test_a_given_source_is_kept_where_the_file_holds_none(
    sd1: SdBackbone, learnt: hiper.Artifact, subject: hiper.Subject, room: Image.Image
) -> None:
    bare = replace(learnt, source=None)
    result = edited(sd1, bare, source=subject.image)
    assert result.settings.keep == 0.5
    assert not result.notes
    with pytest.warns(HiperWarning, match="another picture"):
        other = edited(sd1, bare, source=room)
    width, height = other.images[0].size  # all of it, in the model's area
    assert width * height == pytest.approx(sd1.resolution**2, rel=0.3)
    assert width / height == pytest.approx(150 / 90, rel=0.2)


def test_masks_say_where_a_picture_was_free_to_change(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    result = hiper.edit(sd1, learnt, SENTENCE, seeds=[1, 2, 3], num_inference_steps=2, batch_size=2)
    assert [(mask.mode, mask.size) for mask in result.masks] == [("L", result.images[0].size)] * 3
    assert edited(sd1, learnt, keep=0.0).masks == ()
    kept = edited(sd1, learnt, keep=1.0)
    assert kept.masks[0].getextrema() == (0, 0)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"region": (0, 0, 999, 9)}, "region is the box"),
        ({"region": (9, 9, 9, 20)}, "region is the box"),
        ({"region": Image.new("L", (70, 90), 255)}, "same size"),
        ({"region": (0, 0, 9)}, "whole pixels"),
        ({"region": [0.5, 0, 9, 9]}, "whole pixels"),
        ({"region": (0, 0, 9, 9), "keep": 0.0}, "keep is 0"),
        ({"region": (0, 0, 9, 9), "width": 64}, "leave out the size"),
        ({"into_caption": "a room"}, "without into"),
        ({"into": Image.new("RGB", (64, 64))}, "without a region"),
        ({"into": Image.new("RGB", (64, 64)), "source": Image.new("RGB", (64, 64))}, "both given"),
        ({"source": Image.new("RGB", (64, 64)), "keep": 0.0}, "keep is 0"),
    ],
)
def test_regions_that_mean_nothing_are_refused(
    sd1: SdBackbone, learnt: hiper.Artifact, asked: dict[str, Any], match: str
) -> None:
    with pytest.raises(OptionError, match=match):
        edited(sd1, learnt, **asked)


def test_a_small_region_changes_wholly() -> None:
    """The seam's blur, which a large crop makes wide, leaves the middle of the region alone."""
    large = Image.new("RGB", (2000, 2000))
    thin = Placement(picture=large, mask=Image.new("L", large.size), box=(0, 0, 2000, 2000))
    thin.mask.paste(255, (1000, 0, 1012, 1500))
    put = thin.put_back(Image.new("RGB", (64, 64), "red"))
    assert put.getpixel((1006, 700)) == (255, 0, 0)


@pytest.mark.filterwarnings("ignore:the source is another")
def test_a_region_of_a_file_that_keeps_nothing_by_default_says_what_to_give(
    sd1: SdBackbone, learnt: hiper.Artifact
) -> None:
    paper = replace(learnt, edit={**learnt.edit, "keep_source": 0.0})
    with pytest.raises(OptionError, match="give keep"):
        edited(sd1, paper, region=(0, 0, 9, 9))
    assert edited(sd1, paper, region=(0, 0, 9, 9), keep=0.5).settings.keep == 0.5


def test_one_step_of_a_dial_near_one_still_edits(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    whole, nearly = (
        hiper.edit(sd1, learnt, SENTENCE, num_inference_steps=1, keep=keep) for keep in (1.0, 0.9)
    )
    assert nearly.images[0].tobytes() != whole.images[0].tobytes()


def test_files_of_different_pictures_draw_a_new_one_and_say_so(
    sd1: SdBackbone, learnt: hiper.Artifact
) -> None:
    other = replace(learnt, caption="a red cat", image_sha256="0" * 64)
    with pytest.warns(HiperWarning, match="different pictures"):
        assert edited(sd1, [learnt, other]).settings.keep == 0


@pytest.mark.slow
def test_a_run_refuses_a_region_before_the_fit(
    cli: Cli, dog: Path, model_folder: Path, tmp_path: Path
) -> None:
    run = ("run", dog, SENTENCE, "--caption", CAPTION, "--backbone", model_folder, "--out", tmp_path / "out")
    for asked, named in (
        (("--region", "0,0,999,9"), "0,0,999,9"),
        (("--region", "0,0,9"), "left,top,right,bottom"),
        (("--region", "0,0,9,9", "--preset", "paper"), "--keep"),
        (("--region", "0,0,9,9", "--method", "sdedit"), "sdedit"),
    ):
        refused = cli(*run, *asked)
        assert refused.status == 2
        assert named in refused.err.splitlines()[-1]
        assert "loading" not in refused.err


def test_a_prepared_picture_is_edited_as_the_pictures_themselves(
    sd1: SdBackbone, learnt: hiper.Artifact, room: Image.Image
) -> None:
    pictures: dict[str, Any] = {"into": room, "region": (0, 0, 90, 90)}
    prepared = prepare_picture(sd1, learnt, **pictures)
    whole = edited(sd1, learnt, into_caption="a room", **pictures)
    again = edited(sd1, learnt, into_caption="a room", source=prepared)
    assert again.images[0].tobytes() == whole.images[0].tobytes()
    assert again.given == whole.given == ("region", "into")
    with pytest.raises(OptionError, match="prepare_picture"):
        edited(sd1, learnt, source=prepared, region=(0, 0, 90, 90))


def _as_mode(mask: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):  # the transparency counts, whatever the colour below it
        clear = Image.new(mode, mask.size)
        clear.putalpha(mask)
        return clear
    return mask.quantize(2) if mode == "P" else mask.convert(mode)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_region_is_the_same_in_every_mode(
    sd1: SdBackbone, learnt: hiper.Artifact, room: Image.Image, mode: str, tmp_path: Path
) -> None:
    box = (10, 0, 60, 50)
    mask = Image.new("L", room.size)
    mask.paste(255, box)
    file = tmp_path / ("mask.tif" if mode == "CMYK" else "mask.png")
    _as_mode(mask, mode).save(file)
    by_box, by_mask = (edited(sd1, learnt, into=room, region=each).images[0] for each in (box, file))
    assert by_mask.tobytes() == by_box.tobytes()


def test_a_model_that_cannot_move_latents_draws_anew_or_says_so(
    sd1: SdBackbone, learnt: hiper.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sd1, "capabilities", frozenset({"token_embeddings"}))
    assert edited(sd1, learnt).settings.keep == 0
    for asked in ({"keep": 0.5}, {"region": (0, 0, 9, 9)}, {"keep": 0.0, "region": (0, 0, 9, 9)}):
        with pytest.raises(OptionError, match="cannot"):
            edited(sd1, learnt, **asked)


def test_an_empty_region_is_refused(sd1: SdBackbone, learnt: hiper.Artifact, room: Image.Image) -> None:
    with pytest.raises(ImageError, match="selects nothing"):
        edited(sd1, learnt, into=room, region=Image.new("L", room.size))


def test_a_region_without_any_picture_is_refused(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    with pytest.raises(OptionError, match="no latents"):
        edited(sd1, replace(learnt, source=None), region=(0, 0, 9, 9))


@pytest.mark.slow
def test_a_picture_of_a_region_is_not_drawn_again_without_it(
    cli: Cli, tail: Path, dog: Path, model_folder: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    asked = ("--source", dog, "--region", "0,0,40,40", "--show-mask", "--num-inference-steps", "1")
    edited = cli("edit", tail, SENTENCE, "--out", out, *asked, "--report", page, "--json")
    assert edited.status == 0, edited.err
    (image,) = json.loads(edited.out)["images"]
    assert sorted(map(str, out.iterdir())) == sorted([image["path"], image["mask"]])
    shown = cli("show", image["path"], "--json").out
    assert json.loads(shown)["given"] == ["source", "region"]
    cli("rerun", image["path"], "--backbone", model_folder).refusal("--region")


def test_an_edit_costs_two_calls_of_both_prompts_a_step(sd1: SdBackbone, learnt: hiper.Artifact) -> None:
    batches: list[int] = []
    hook = sd1.denoiser.register_forward_pre_hook(lambda module, given: batches.append(len(given[0])))
    try:
        result = hiper.edit(sd1, learnt, SENTENCE, seeds=[1, 2], num_inference_steps=3)
    finally:
        hook.remove()
    assert result.settings.keep == 0.5
    assert batches == [4] * 6


@pytest.mark.slow
@pytest.mark.parametrize("asked", [("--source", "dog"), ("--region", "0,0,20,20"), ("--into", "dog")])
def test_a_command_encodes_or_decodes_once_what_it_starts_from(
    cli: Cli, tail: Path, dog: Path, tmp_path: Path, asked: tuple[str, str]
) -> None:
    asked = (asked[0], str(dog) if asked[1] == "dog" else asked[1])
    box = ("--region", "0,0,40,40") if asked[0] == "--into" else ()
    calls: Counter[str] = Counter()

    def count(module: torch.nn.Module, given: object, result: object) -> None:
        calls[type(module).__name__] += isinstance(module, (Encoder, Decoder))

    few = ("--images", "2", "--batch-size", "1", "--num-inference-steps", "1")
    hook = register_module_forward_hook(count)
    try:
        edited = cli("edit", tail, SENTENCE, "a lying dog", "--out", tmp_path / "out", *asked, *box, *few)
    finally:
        hook.remove()
    assert edited.status == 0, edited.err
    # four pictures are decoded, and once the picture of the file
    expected = {"Decoder": 5} if asked[0] == "--region" else {"Encoder": 1, "Decoder": 4}
    assert {name: calls[name] for name in ("Encoder", "Decoder") if calls[name]} == expected


@pytest.mark.slow
def test_a_fit_without_the_source_is_an_option(
    cli: Cli, dog: Path, model_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tail.safetensors"
    fit = ("fit", dog, "--caption", CAPTION, "--backbone", model_folder, "--out", file, "--no-source")
    assert cli(*fit, "-o", "num_train_steps=1").status == 0
    assert hiper.Artifact.load(file).source is None
    cli(*fit, "--overwrite", "-o", "source=true").refusal("--no-source")
