"""The sampling defaults of a model, and the notes of what is given and has no effect or suits it badly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import hiper
from hiper.artifacts import Artifact
from hiper.backbones import Backbone, load_backbone
from hiper.backbones.registry import wrap
from hiper.errors import BackboneError, HiperWarning, OptionError
from hiper.images import clean_text
from hiper.notes import collected_warnings
from hiper.options import prompt_syntax
from tests import tiny, tiny_families
from tests.conftest import Cli

SENTENCE = "a sitting dog"
CONSISTENCY = {"time_cond_proj_dim": 8}


def scheduled(pipe: Any, name: str, **config: Any) -> Any:
    schedule = {key: value for key, value in pipe.scheduler.config.items() if key != "skip_prk_steps"}
    pipe.scheduler = getattr(diffusers, name).from_config(schedule, **config)
    return pipe


def sd(**unet: Any) -> Any:
    """A Stable Diffusion whose UNet's configuration has further entries."""
    changed = diffusers.UNet2DConditionModel.from_config(tiny.unet().config, **unet)
    return tiny.pipeline(unet=tiny.amplified(changed.eval()))


def sd3(**changes: Any) -> Any:
    pipe = tiny_families.sd3()
    pipe.transformer = diffusers.SD3Transformer2DModel.from_config(pipe.transformer.config, **changes).eval()
    return pipe


def named(pipe: Any, name: str) -> Any:
    pipe.register_to_config(_name_or_path=name)
    return pipe


LARGE = {"qk_norm": "rms_norm"}
MEDIUM = {**LARGE, "dual_attention_layers": (0,)}
SUITED: dict[str, tuple[Callable[[], Any], tuple[float, int]]] = {
    "Stable Diffusion": (sd, (7.5, 50)),
    "SDXL": (tiny_families.sdxl, (5, 50)),
    "SDXL Turbo": (
        lambda: scheduled(
            tiny_families.sdxl(), "EulerAncestralDiscreteScheduler", timestep_spacing="trailing"
        ),
        (1, 4),
    ),
    "SDXL Lightning": (
        lambda: scheduled(tiny_families.sdxl(), "EulerDiscreteScheduler", timestep_spacing="trailing"),
        (1, 4),
    ),
    "v down to noise alone": (
        lambda: scheduled(
            tiny.pipeline("sd2"), "DDIMScheduler", timestep_spacing="trailing", rescale_betas_zero_snr=True
        ),
        (7.5, 50),
    ),
    "LCM": (lambda: scheduled(sd(**CONSISTENCY), "LCMScheduler"), (8, 4)),
    "an LCM with another sampler": (lambda: sd(**CONSISTENCY), (8, 4)),
    "LCM by a LoRA": (lambda: scheduled(sd(), "LCMScheduler"), (1, 4)),
    "Stable Diffusion 3 medium": (sd3, (7, 28)),
    "Stable Diffusion 3.5 medium": (lambda: sd3(**MEDIUM), (4.5, 40)),
    "Stable Diffusion 3.5 large": (lambda: sd3(**LARGE), (3.5, 28)),
    "FLUX.1 dev": (tiny_families.flux_dev, (3.5, 28)),
    "FLUX.1 schnell": (tiny_families.flux_schnell, (1, 4)),
    "klein": (tiny_families.klein, (1, 4)),
    "klein base": (tiny_families.klein_base, (4, 50)),
    "Z-Image Turbo": (tiny_families.z_image, (1, 8)),
    "Z-Image": (
        lambda: scheduled(tiny_families.z_image(), "FlowMatchEulerDiscreteScheduler", shift=6.0),
        (5, 50),
    ),
    "Qwen-Image": (tiny_families.qwen_image, (4, 50)),
    "PixArt-Sigma": (tiny_families.pixart, (4.5, 20)),
    "Sana": (tiny_families.sana, (4.5, 20)),
    "Lumina 2": (tiny_families.lumina2, (4, 30)),
}


@pytest.mark.slow
@pytest.mark.parametrize("model", SUITED)
def test_steps_and_guidance_are_those_of_the_model_s_configuration(model: str) -> None:
    make, suited = SUITED[model]
    backbone = wrap(make())
    assert (backbone.default_guidance_scale, backbone.default_num_inference_steps) == suited


def test_a_turbo_of_35_is_known_by_its_name_with_a_note() -> None:
    with pytest.warns(HiperWarning, match="few steps"):
        backbone = wrap(named(sd3(**LARGE), "stabilityai/stable-diffusion-3.5-large-turbo"))
    assert (backbone.default_guidance_scale, backbone.default_num_inference_steps) == (1, 4)


@pytest.mark.parametrize(("name", "scheduler"), [("sdxl-lightning", "ddim"), ("dream-LCM", "lcm")])
def test_a_folder_that_is_distilled_by_name_alone_is_noted(name: str, scheduler: str, tmp_path: Path) -> None:
    tiny.pipeline().save_pretrained(tmp_path / name)
    with pytest.warns(HiperWarning, match="--num-inference-steps"):
        backbone = load_backbone(tmp_path / name, device="cpu")
    assert (
        backbone.default_guidance_scale,
        backbone.default_num_inference_steps,
        backbone.schedulers[0],
    ) == (1, 4, scheduler)


def test_qwen_image_draws_1328_pixels_and_reads_a_blank_for_no_negative() -> None:
    backbone = wrap(tiny_families.qwen_image())
    assert backbone.resolution == 1328
    none = backbone.encode_negative("")
    assert torch.equal(none.token_embeddings, backbone.encode(" ").token_embeddings)
    assert none.prompt == ""


def test_sana_sprint_is_refused() -> None:
    pipe = tiny_families.sana()
    pipe.transformer.register_to_config(guidance_embeds=True)
    with pytest.raises(BackboneError, match="Sana Sprint"):
        wrap(pipe)


@pytest.fixture(scope="module")
def consistency() -> Backbone:
    return wrap(scheduled(sd(**CONSISTENCY), "LCMScheduler"))


@pytest.mark.slow
def test_an_lcm_draws_by_its_own_sampler_from_each_picture_s_seed(consistency: Backbone) -> None:
    sentence, none = consistency.encode(SENTENCE), consistency.encode("")

    def drawn(seeds: list[int], guidance: float = 8) -> list[bytes]:
        settings = consistency.sampling_settings(num_inference_steps=3, guidance_scale=guidance)
        samples = consistency.sample(sentence, [none], settings, seeds=seeds)
        return [image.tobytes() for image in samples.images]

    assert consistency.schedulers[0] == "lcm"
    assert drawn([3]) == drawn([3])
    assert drawn([1, 3])[1] == drawn([3])[0] != drawn([1, 3])[0]
    assert drawn([3], guidance=2) != drawn([3])


def test_an_lcm_is_fitted_at_a_guidance_that_it_knows(consistency: Backbone) -> None:
    pipe = scheduled(sd(**CONSISTENCY), "LCMScheduler")
    pipe.unet.load_state_dict(consistency.denoiser.state_dict())
    noisy, t, conditioning = torch.randn(1, 4, 4, 4), torch.tensor([500]), consistency.encode(SENTENCE)
    scale = pipe.get_guidance_scale_embedding(torch.tensor([2.0]), embedding_dim=8)
    with torch.no_grad():
        expected = pipe.unet(
            noisy, t, encoder_hidden_states=conditioning.token_embeddings, timestep_cond=scale
        ).sample
        assert torch.equal(consistency.predict(noisy, t, conditioning), expected)


def artifact_of(backbone: Backbone, picture: Path) -> Artifact:
    with collected_warnings():  # one step may not lower the loss
        return hiper.fit(backbone, hiper.Subject.open(picture, caption="a standing dog"), num_train_steps=1)


def notes_of(backbone: Backbone, artifact: Artifact, **settings: Any) -> tuple[str, ...]:
    size = {} if backbone.resolution < 100 else {"height": tiny_families.SIDE, "width": tiny_families.SIDE}
    with collected_warnings():
        return hiper.edit(
            backbone, artifact, SENTENCE, num_inference_steps=1, keep=0, **{**size, **settings}
        ).notes


@pytest.mark.slow
def test_a_negative_sentence_without_guidance_is_noted(sd1: Backbone, artifact: Artifact) -> None:
    assert any(
        "negative" in note for note in notes_of(sd1, artifact, negative_prompt="red", guidance_scale=1)
    )
    assert any(
        "negative" in note for note in notes_of(sd1, artifact, negative_prompt="red", guidance_scale=0)
    )
    assert notes_of(sd1, artifact, negative_prompt="red", guidance_scale=3) == ()
    assert notes_of(sd1, artifact, guidance_scale=1) == ()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["LCM", "FLUX.1 dev", "FLUX.1 schnell", "klein", "Z-Image Turbo"])
def test_a_negative_sentence_that_a_distilled_model_ignores_is_noted(model: str, dog: Path) -> None:
    backbone = wrap(SUITED[model][0]())
    if backbone.resolution > 100:
        backbone.resize(tiny_families.SIDE)
    artifact = artifact_of(backbone, dog)
    assert any("negative" in note for note in notes_of(backbone, artifact, negative_prompt="red"))
    assert not any("negative" in note for note in notes_of(backbone, artifact))
    if backbone.uses_negative_prompt:
        collected_warnings = notes_of(backbone, artifact, negative_prompt="red", guidance_scale=3)
        assert not any("negative" in note for note in collected_warnings)
    else:
        with pytest.warns(HiperWarning, match="negative"):
            hiper.prompt_embeds(backbone, artifact, SENTENCE, negative_prompt="red")


@pytest.mark.slow
def test_a_guidance_that_a_distilled_model_ignores_is_noted(dog: Path) -> None:
    backbone = wrap(tiny_families.klein())
    backbone.resize(tiny_families.SIDE)
    artifact = artifact_of(backbone, dog)
    assert any("scale 3" in note for note in notes_of(backbone, artifact, guidance_scale=3))


@pytest.mark.slow
def test_a_file_of_an_ordinary_model_on_a_distilled_one_is_noted(
    consistency: Backbone, artifact: Artifact
) -> None:
    with collected_warnings():
        notes = hiper.edit(consistency, artifact, SENTENCE, keep=0).notes
        given = hiper.edit(
            consistency, artifact, SENTENCE, num_inference_steps=2, guidance_scale=8, scheduler="lcm", keep=0
        ).notes
    assert any("suits 4 steps at guidance 8 by lcm" in note for note in notes)
    assert given == ()


def test_an_lcm_takes_no_more_steps_than_it_chooses_among(consistency: Backbone, dog: Path) -> None:
    with pytest.raises(OptionError, match="from 1 to 50"):
        hiper.edit(consistency, artifact_of(consistency, dog), SENTENCE, num_inference_steps=51)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "where"),
    [
        (64, 64, "above"),
        (32, 64, "above"),
        (48, 48, "above"),
        (16, 16, "below"),
        (8, 32, "below"),
        (40, 40, None),
        (24, 24, None),
        (16, 48, None),
        (32, None, None),
    ],
)
def test_sizes_far_from_the_native_one_are_noted(
    height: int, width: int | None, where: str | None, sd1: Backbone, artifact: Artifact
) -> None:
    found = notes_of(sd1, artifact, height=height, width=width)
    assert [f"far {where}" in note for note in found] == ([True] if where else [])


@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "where"), [(128, "above"), (16, "below")])
def test_a_resolution_far_from_the_native_one_is_noted(
    resolution: int, where: str, model_folder: Path, dog: Path
) -> None:
    with pytest.warns(HiperWarning, match=f"far {where} the 32 x 32"):
        backbone = load_backbone(model_folder, device="cpu", resolution=resolution)
    artifact = artifact_of(backbone, dog)
    assert any(f"far {where}" in note for note in notes_of(backbone, artifact, height=resolution))
    assert notes_of(backbone, artifact, height=32, width=32) == ()


SYNTAX = (
    "a (sitting:1.3) dog",
    "a (dog :0.8)",
    "a [sitting|standing] dog",
    "a [cat:dog:0.5]",
    "a [sitting] dog",
    "a ((sitting)) dog",
    "a {{sitting}} dog",
    "a {red|blue} dog",
    "a dog <lora:rex:1>",
    "a dog, embedding:rex",
    "a dog BREAK grass",
    "a dog AND a cat",
    "a sitting++ dog",
    "a (sitting dog)1.3",
    "a __colour__ dog",
    r"a dog \(breed\)",
)
WORDS = (
    "a dog (my neighbour's)",
    "a dog (at 10:30)",
    "a photograph, 4:3 (2:1)",
    "see [1]",
    "a book on C++",
    "a dog at BREAKFAST",
    "a dog and a cat",
    "R&B, well-known -- and old",
)


@pytest.mark.parametrize("text", SYNTAX)
def test_the_syntax_of_other_programs_is_noted(text: str) -> None:
    found = prompt_syntax(text)
    assert found
    assert found in text
    with pytest.warns(HiperWarning, match="plain words"):
        assert clean_text(text, what="prompt") == text


@pytest.mark.parametrize("text", WORDS)
def test_plain_words_are_not(text: str) -> None:
    assert prompt_syntax(text) == ""


@pytest.mark.slow
def test_every_way_in_tells_of_it(cli: Cli, model_folder: Path, dog: Path, tmp_path: Path) -> None:
    model = ("--backbone", model_folder, "--device", "cpu")
    tail = tmp_path / "dog.safetensors"
    fitted = cli(
        "fit", dog, "--caption", "a (red:1.2) dog", "--out", tail, "-o", "num_train_steps=1", "--json", *model
    )
    assert any("(red:1.2)" in note for note in json.loads(fitted.out)["notes"])
    edit = {"height": 64, "width": 64, "guidance_scale": 1, "num_inference_steps": 1}
    words = [word for name, value in edit.items() for word in (f"--{name.replace('_', '-')}", value)]
    negative = ("--negative-prompt", "[blue|red]")
    drawn = cli("edit", tail, "a ((blue)) dog", *negative, *words, "--out", tmp_path / "d", "--json", *model)
    job = {
        "image": str(dog),
        "caption": "a (red:1.2) dog",
        "sentences": ["a ((blue)) dog"],
        "negative_prompt": "[blue|red]",
        "options": {"num_train_steps": 1},
        "edit": edit,
    }
    given = ("--prompt", "a ((blue)) dog", *negative, *words)
    watched = cli("attention", tail, *given, "--out", tmp_path / "a", "--json", *model)
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(json.dumps(job))
    assert cli("batch", jobs, "--out", tmp_path / "b", *model).status == 0
    [record] = (tmp_path / "b" / "jobs").glob("*/record.json")
    marks = ["((blue))", "[blue|red]", "far above", "negative sentence is ignored"]
    for mark in marks:
        assert mark in str(json.loads(drawn.out)["notes"])
        assert mark in str(json.loads(watched.out)["notes"])
        assert mark in record.read_text()
    assert "(red:1.2)" in record.read_text()
