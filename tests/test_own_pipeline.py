"""prompt_embeds in pipelines of a user's own: relatives of a family, offloaded ones, ones that lack a part."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import pytest
import torch
from torch import Tensor

import hiper
from hiper.backbones import wrap_reader
from hiper.backbones.registry import wrap
from hiper.errors import ArtifactError, BackboneError, CaptionError, HiperWarning, OptionError
from tests import tiny, tiny_families

TARGET, OTHER = "a sitting dog", "a cat on the red grass"


@cache
def base(name: str) -> Any:
    return tiny.pipeline(name) if name in ("sd1", "sd2") else tiny_families.pipeline(name)  # type: ignore[arg-type]


@cache
def artifact(name: str) -> hiper.Artifact:
    """The shortest fit there is: what it has learnt does not matter here."""
    backbone = wrap(base(name))
    if name not in ("sd1", "sd2"):
        backbone.resize(tiny_families.SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HiperWarning)  # after one step the loss need not have fallen
        return hiper.fit(
            backbone,
            hiper.Subject.from_image(tiny.picture(), caption="a standing dog"),
            num_train_steps=1,
            tail=3,
        )


def made(kind: str, name: str, **parts: Any) -> Any:
    """A pipeline of that class of diffusers, with the base pipeline's components and those of its own."""
    pipe = base(name)
    taken = {each: part for each, part in pipe.components.items() if each not in parts}
    own = getattr(diffusers, kind)
    return own(
        **{each: part for each, part in {**taken, **pipe.parameters, **parts}.items() if takes(own, each)}
    )


def takes(kind: Any, name: str) -> bool:
    from inspect import signature

    return name in signature(kind.__init__).parameters


def control(kind: str, name: str) -> Any:
    """A ControlNet of the base pipeline's denoiser."""
    return getattr(diffusers, kind).from_unet(
        base(name).unet, conditioning_embedding_out_channels=(16, 16, 16)
    )


RELATIVES: Mapping[str, tuple[str, Callable[[], Any]]] = {
    "StableDiffusionImg2ImgPipeline": ("sd1", dict),
    "StableDiffusionPAGPipeline": ("sd1", dict),
    "StableDiffusionPanoramaPipeline": ("sd1", dict),
    "StableDiffusionInstructPix2PixPipeline": ("sd1", lambda: {"unet": unet_of(8)}),
    "StableDiffusionInpaintPipeline": ("sd2", lambda: {"unet": unet_of(9)}),
    "AnimateDiffPipeline": ("sd1", lambda: {"motion_adapter": motion_adapter()}),
    "StableDiffusionControlNetPipeline": ("sd1", lambda: {"controlnet": control("ControlNetModel", "sd1")}),
    "StableDiffusionControlNetInpaintPipeline": (
        "sd1",
        lambda: {"controlnet": control("ControlNetModel", "sd1")},
    ),
    "StableDiffusionXLImg2ImgPipeline": ("sdxl", dict),
    "StableDiffusionXLInpaintPipeline": ("sdxl", dict),
    "StableDiffusionXLControlNetPipeline": (
        "sdxl",
        lambda: {"controlnet": control("ControlNetModel", "sdxl")},
    ),
    "StableDiffusion3Img2ImgPipeline": ("sd3", dict),
    "StableDiffusion3ControlNetPipeline": ("sd3", lambda: {"controlnet": sd3_control()}),
    "StableDiffusion3PAGPipeline": ("sd3", dict),
    "FluxImg2ImgPipeline": ("flux-dev", dict),
    "FluxFillPipeline": ("flux-dev", dict),
    "FluxKontextPipeline": ("flux-dev", dict),
    "FluxControlNetPipeline": ("flux-dev", lambda: {"controlnet": flux_control()}),
    "FluxControlPipeline": ("flux-schnell", dict),
    "Flux2KleinInpaintPipeline": ("klein", dict),
    "Flux2KleinKVPipeline": ("klein-base", dict),
    "QwenImageImg2ImgPipeline": ("qwen-image", dict),
    "ZImageImg2ImgPipeline": ("z-image", dict),
    "PixArtSigmaPAGPipeline": ("pixart", dict),
    "PixArtAlphaPipeline": ("pixart", dict),
    "SanaPAGPipeline": ("sana", dict),
    "SanaSprintPipeline": ("sana", dict),
}
"""Class of diffusers -> the family it reads sentences as, and the components of its own."""


def unet_of(channels: int) -> Any:
    return diffusers.UNet2DConditionModel.from_config(base("sd1").unet.config, in_channels=channels)


def motion_adapter() -> Any:
    return diffusers.MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
    )


def sd3_control() -> Any:
    return diffusers.SD3ControlNetModel.from_transformer(base("sd3").transformer, num_layers=1)


def flux_control() -> Any:
    return diffusers.FluxControlNetModel.from_transformer(
        base("flux-dev").transformer,
        num_layers=1,
        num_single_layers=0,
        attention_head_dim=16,
        num_attention_heads=2,
    )


def equal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    def same(one: Any, other: Any) -> bool:
        if isinstance(one, list):
            return len(one) == len(other) and all(map(torch.equal, one, other))
        return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)

    return all(same(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:fitted on")  # other channels, another UNet
@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own
@pytest.mark.parametrize("kind", RELATIVES)
def test_a_relative_takes_the_rows_of_its_family(kind: str) -> None:
    from inspect import signature

    name, parts = RELATIVES[kind]
    pipe = made(kind, name, **parts())
    expected = hiper.prompt_embeds(base(name), artifact(name), TARGET)
    embeds = hiper.prompt_embeds(pipe, artifact(name), TARGET)
    assert "prompt_embeds" in embeds
    assert equal(embeds, expected)
    taken = signature(pipe.__call__).parameters
    assert embeds.keys() == expected.keys() & taken.keys()


def drawn(pipe: Any, embeds: Mapping[str, Any], **arguments: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    random = torch.Generator().manual_seed(0)
    output = pipe(**embeds, num_inference_steps=2, generator=random, output_type="pt", **arguments)
    picture: Tensor = output.images
    return picture


CALLS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "StableDiffusionImg2ImgPipeline": lambda: {"image": tiny.picture(64), "strength": 1.0},
    "StableDiffusionControlNetPipeline": lambda: {"image": tiny.picture(32)},
    "StableDiffusionXLImg2ImgPipeline": lambda: {"image": tiny.picture(64), "strength": 1.0},
    "StableDiffusion3Img2ImgPipeline": lambda: {
        "image": tiny.picture(64),
        "strength": 1.0,
        "height": 64,
        "width": 64,
    },
    "FluxImg2ImgPipeline": lambda: {"image": tiny.picture(64), "strength": 1.0, "height": 64, "width": 64},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CALLS)
def test_a_relative_draws_from_them(kind: str) -> None:
    name, parts = RELATIVES[kind]
    pipe, arguments = made(kind, name, **parts()), CALLS[kind]()
    with_tail, without = (
        drawn(pipe, hiper.prompt_embeds(pipe, artifact(name), TARGET, strength=strength), **arguments)
        for strength in (1.0, 0.0)
    )
    assert with_tail.shape[0] == 1
    assert not torch.equal(with_tail, without)


def test_a_subclass_is_what_it_descends_from() -> None:
    class Mine(diffusers.StableDiffusionPipeline):  # type: ignore[misc]
        pass

    pipe = Mine(**base("sd1").components, requires_safety_checker=False)
    assert equal(
        hiper.prompt_embeds(pipe, artifact("sd1"), TARGET),
        hiper.prompt_embeds(base("sd1"), artifact("sd1"), TARGET),
    )
    assert wrap(pipe).family == wrap(base("sd1")).family


def test_a_compiled_denoiser_is_still_one() -> None:
    unet = torch.compile(base("sd1").unet, backend="eager")
    pipe = made("StableDiffusionImg2ImgPipeline", "sd1")
    pipe.unet = unet
    assert wrap_reader(pipe).family == wrap(base("sd1")).family


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: made("QwenImageEditPipeline", "qwen-image", processor=None), "QwenImageEditPipeline"),
        (lambda: made("StableDiffusionXLImg2ImgPipeline", "sdxl").unet, "UNet2DConditionModel"),
        (lambda: "critters", "str"),
    ],
)
def test_what_reads_sentences_in_another_way_is_refused(model: Callable[[], Any], says: str) -> None:
    with pytest.raises(BackboneError, match=says):
        hiper.prompt_embeds(model(), artifact("qwen-image"), TARGET)


def test_a_relative_of_another_family_is_refused() -> None:
    with pytest.raises(ArtifactError, match="sdxl"):
        hiper.prompt_embeds(made("StableDiffusionXLImg2ImgPipeline", "sdxl"), artifact("sd1"), TARGET)


def test_a_negative_sentence_that_a_relative_does_not_take_is_told() -> None:
    pipe = made("Flux2KleinKVPipeline", "klein-base")
    with pytest.warns(HiperWarning, match="takes no negative sentence"):
        hiper.prompt_embeds(pipe, artifact("klein-base"), TARGET, negative_prompt=OTHER)


# parts that are elsewhere, of another kind, or missing


def own(name: str) -> Any:
    """A pipeline that a test may change for good."""
    return tiny.pipeline("sd1") if name == "sd1" else tiny_families.pipeline(name)


def on_disk(pipe: Any, folder: Path) -> Any:
    """Leave no weight in memory, as sequential offloading does; accelerate cannot do that from the CPU to the CPU."""
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            accelerate.disk_offload(part, str(folder / name), execution_device=torch.device("cpu"))
    return pipe


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd1", "sdxl", "flux-dev", "qwen-image"])
def test_a_pipeline_whose_weights_are_elsewhere_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    """Without the warning of another checkpoint: its weights are found where they are."""
    pipe = on_disk(own(name), tmp_path)
    assert all(weight.is_meta for weight in pipe.text_encoder.parameters())
    embeds = hiper.prompt_embeds(pipe, artifact(name), TARGET)
    assert equal(embeds, hiper.prompt_embeds(base(name), artifact(name), TARGET))
    assert all(weight.is_meta for weight in pipe.text_encoder.parameters())
    if name == "sd1":
        assert torch.equal(drawn(pipe, embeds), drawn(base("sd1"), embeds))


@pytest.mark.parametrize("name", ["sd1", "flux-dev"])
def test_an_offloaded_pipeline_gives_the_same_rows(name: str) -> None:
    pipe = own(name)
    pipe.enable_model_cpu_offload(device="cpu")
    embeds = hiper.prompt_embeds(pipe, artifact(name), TARGET)
    assert equal(embeds, hiper.prompt_embeds(base(name), artifact(name), TARGET))


def test_nothing_is_learnt_through_weights_that_are_not_there() -> None:
    pipe = own("sd1")
    pipe.enable_sequential_cpu_offload(device="cpu")
    with pytest.raises(BackboneError, match="enable_sequential_cpu_offload"):
        wrap(pipe)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sd1", "sdxl", "flux-dev", "sd3", "qwen-image", "pixart", "sana", "z-image"]
)
def test_the_picture_encoder_may_be_missing_or_of_another_dtype(name: str) -> None:
    pipe, expected = base(name), hiper.prompt_embeds(base(name), artifact(name), TARGET)
    parts = {**pipe.components, "vae": None}
    bare = type(pipe)(**parts, **pipe.parameters)
    assert equal(hiper.prompt_embeds(bare, artifact(name), TARGET), expected)
    pipe.vae.to(torch.float64)
    try:
        assert equal(hiper.prompt_embeds(pipe, artifact(name), TARGET), expected)
    finally:
        pipe.vae.to(torch.float32)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sd1", "text_encoder"),
        ("sd1", "tokenizer"),
        ("sd1", "unet"),
        ("sdxl", "text_encoder_2"),
        ("flux-dev", "text_encoder_2"),
        ("sd3", "text_encoder"),
        ("z-image", "transformer"),
    ],
)
def test_a_missing_part_that_rows_take_is_named(name: str, part: str) -> None:
    pipe = base(name)
    bare = type(pipe)(**{**pipe.components, part: None}, **pipe.parameters)
    with pytest.raises(BackboneError, match=f"has no {part}"):
        hiper.prompt_embeds(bare, artifact(name), TARGET)


def test_stable_diffusion_3_may_be_without_t5() -> None:
    pipe = base("sd3")
    bare = type(pipe)(**{**pipe.components, "text_encoder_3": None, "tokenizer_3": None})
    with pytest.warns(HiperWarning, match="weights differ"):
        embeds = hiper.prompt_embeds(bare, artifact("sd3"), TARGET)
    assert (
        embeds["prompt_embeds"].shape
        == hiper.prompt_embeds(pipe, artifact("sd3"), TARGET)["prompt_embeds"].shape
    )


# several sentences


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sd1", "sdxl", "sd3", "flux-dev", "klein-base", "z-image", "qwen-image", "lumina2"]
)
def test_several_sentences_are_drawn_as_each_alone(name: str) -> None:
    pipe = base(name)
    side = {} if name == "sd1" else {"height": tiny_families.SIDE, "width": tiny_families.SIDE}
    together = hiper.prompt_embeds(pipe, artifact(name), [TARGET, OTHER])
    pictures = pipe(**together, **side, num_inference_steps=1, generator=seeds(2), output_type="pt").images
    for picture, sentence in zip(pictures, (TARGET, OTHER), strict=True):
        embeds = hiper.prompt_embeds(pipe, artifact(name), sentence)
        (alone,) = pipe(**embeds, **side, num_inference_steps=1, generator=seeds(1), output_type="pt").images
        assert torch.allclose(picture, alone, atol=1 / 255)


def seeds(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(0) for _ in range(count)]


def test_each_sentence_has_its_own_negative_one_or_all_the_same() -> None:
    pipe = base("sd1")
    rows = hiper.prompt_embeds(pipe, artifact("sd1"), [TARGET, OTHER], negative_prompt=["a cat", "grass"])
    for i, (sentence, negative) in enumerate(((TARGET, "a cat"), (OTHER, "grass"))):
        alone = hiper.prompt_embeds(pipe, artifact("sd1"), sentence, negative_prompt=negative)
        assert all(torch.equal(rows[name][i : i + 1], alone[name]) for name in rows)
    shared = hiper.prompt_embeds(pipe, artifact("sd1"), [TARGET, OTHER], negative_prompt="a cat")
    assert torch.equal(*shared["negative_prompt_embeds"])
    with pytest.raises(OptionError, match="3 negative prompts for 2 prompts"):
        hiper.prompt_embeds(pipe, artifact("sd1"), [TARGET, OTHER], negative_prompt=["a", "b", "c"])


@pytest.mark.parametrize("prompt", [[], [None], 3])
def test_what_is_no_sentence_is_refused(prompt: Any) -> None:
    with pytest.raises((OptionError, CaptionError), match="prompt"):
        hiper.prompt_embeds(base("sd1"), artifact("sd1"), prompt)


def test_an_edit_takes_one_sentence() -> None:
    with pytest.raises(CaptionError, match="list"):
        hiper.edit(wrap(base("sd1")), artifact("sd1"), [TARGET, OTHER])  # type: ignore[arg-type]
