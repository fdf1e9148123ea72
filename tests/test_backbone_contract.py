"""What every backbone keeps, whatever its family: against the family's own pipeline and diffusers' schedulers.

Pictures of one and the same computation may differ by one level of 255: kernels sum in another order when the
batch, the padding or the mask changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

import hiper
from hiper.backbones import PIPELINES, _diffusers, declarations
from hiper.backbones.registry import wrap
from hiper.conditioning import place_tail, take_tail
from hiper.errors import ArtifactError, HiperWarning, OptionError
from hiper.methods import get_method
from hiper.options import METHODS, Key
from hiper.seeds import generator
from tests import tiny, tiny_families

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning"
    ),  # diffusers' DPM-Solver, numpy 2
]

TAIL = 5
STEPS = 2
LONG, SHORT = "a sitting cat on the red grass", "a dog"
CAPTION, TARGET = "a standing dog", "a sitting dog"
UNHEARD = ("flux-dev", "klein")  # without negative sentences
WHOLE = (
    "sd2",
    "sdxl",
    "flux-dev",
    "klein-base",
)  # tried with every method: UNets and transformers, epsilon, v and flow
INTO_MODULES = {"dreambooth-lora", "textual-inversion"}
OWN_WORDS: dict[str, dict[str, Any]] = {
    "flux-dev": {},
    "flux-schnell": {"max_sequence_length": 256, "negative_prompt": ""},
    "klein": {},
    "klein-base": {},
    "pixart": {"negative_prompt": "", "use_resolution_binning": False},
    "sana": {"negative_prompt": "", "use_resolution_binning": False},
}
"""What the pipeline's own call takes, besides the sentence, to do as we do."""


def build(name: str, dtype: torch.dtype = torch.float32) -> Any:
    pipe = tiny.pipeline(name) if name in ("sd1", "sd2") else tiny_families.pipeline(name)  # type: ignore[arg-type]
    backbone: Any = wrap(pipe.to(dtype))
    if name not in ("sd1", "sd2"):
        backbone.resize(tiny_families.SIDE)
    return backbone


@pytest.fixture(scope="module", params=["sd1", "sd2", *tiny_families.FAMILIES])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def backbone(name: str) -> Any:
    return build(name)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A short fit, and the hash of all weights and the model's key before it."""

    artifact: hiper.Artifact
    weights: str
    key: Key


@pytest.fixture(scope="module")
def fit(backbone: Any, subject: Any) -> Fit:
    weights, key = backbone.weights_sha256(), backbone.model_key()
    artifact = hiper.fit(backbone, subject, num_train_steps=6, batch=4, learning_rate=0.1)
    return Fit(artifact=artifact, weights=weights, key=key)


@pytest.fixture(scope="module")
def artifact(fit: Fit) -> hiper.Artifact:
    return fit.artifact


def pipe_of(backbone: Any) -> Any:
    return backbone._pipe


def levels(one: PIL.Image.Image, other: PIL.Image.Image) -> Any:
    return np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))


def alike(one: PIL.Image.Image, other: PIL.Image.Image) -> bool:
    assert len(set(np.asarray(one).flat)) > 8, "a flat picture proves nothing"
    return bool(levels(one, other).max() <= 1)


def draw(
    backbone: Any, positive: Any, negatives: Any, seeds: list[int], **settings: Any
) -> list[PIL.Image.Image]:
    chosen = {"num_inference_steps": STEPS, "guidance_scale": 3.0, **settings}
    images: list[PIL.Image.Image] = backbone.sample(
        positive, negatives, backbone.sampling_settings(**chosen), seeds=seeds
    ).images
    return images


def noise_of(backbone: Any, seed: int = 0) -> Tensor:
    return torch.randn(1, *backbone.latent_shape, generator=generator(seed))


def test_every_pipeline_is_under_the_contract() -> None:
    built = {get_type_hints(build)["return"].__name__ for build in tiny_families.FAMILIES.values()}
    assert set(PIPELINES) == {"StableDiffusionPipeline", *built}
    assert set(METHODS) == set(tiny.ONE_STEP)


def test_it_describes_itself(backbone: Any) -> None:
    sentence = backbone.encode(CAPTION)
    assert sentence.token_embeddings.shape == (1, sentence.sequence_length, backbone.embed_dim)
    assert sentence.token_embeddings.dtype == torch.float32
    assert (
        sentence.num_tokens
        == len(sentence.words_per_token)
        <= sentence.sequence_length
        <= backbone.max_length
    )
    said = [piece for piece in sentence.words_per_token if piece and piece != "(the end mark)"]
    assert said[-3:] == CAPTION.split()
    assert not sentence.token_embeddings.requires_grad
    image = tiny.picture(backbone.resolution)
    assert backbone.latents(image, generator(0)).shape == (1, *backbone.latent_shape)
    assert backbone.resolution % backbone.size_multiple == 0
    assert declarations()[backbone.pipeline_name].family in ("", backbone.family)


def test_a_sentence_that_is_too_long_says_what_is_lost(backbone: Any) -> None:
    sentence = backbone.encode(" ".join(["dog"] * backbone.max_length + ["cat"]))
    assert sentence.truncated_words[-1] == "cat"
    assert sentence.sequence_length == backbone.max_length


def test_a_tail_overwrites_no_word_of_an_ordinary_sentence(backbone: Any) -> None:
    sentence = backbone.encode(LONG)
    placed = place_tail(sentence, torch.zeros(TAIL, backbone.embed_dim), backbone.placement)
    assert torch.equal(
        placed.token_embeddings[:, : sentence.num_tokens],
        sentence.token_embeddings[:, : placed.sequence_length - TAIL][:, : sentence.num_tokens],
    )
    assert bool((placed.token_embeddings[:, -TAIL:] == 0).all())


def test_decoding_undoes_the_scale_of_encoding(backbone: Any) -> None:
    latents = torch.randn(1, *backbone.latent_shape, generator=generator(0))
    assert torch.allclose(backbone._scaled(backbone._unscaled(latents)), latents, atol=1e-5)


def test_pictures_are_decoded_one_by_one(backbone: Any) -> None:
    """Four at once take 12.5 GiB on SDXL. The pipeline, which may be a user's own, is as it was."""
    vae, sizes = backbone._pipe.vae, list[int]()
    watch = vae.decoder.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    latents = torch.randn(3, *backbone.latent_shape, generator=generator(0))
    together = backbone.decode(latents)
    assert sizes == [1, 1, 1]
    alone = [backbone.decode(each[None])[0] for each in latents]
    assert [each.tobytes() for each in together] == [each.tobytes() for each in alone]
    sizes.clear()
    positive = backbone.encode("a dog")
    backbone.sample(
        positive,
        [backbone.encode_negative("")],
        backbone.sampling_settings(num_inference_steps=1, guidance_scale=2),
        seeds=[0, 1],
    )
    assert sizes == [1, 1]
    assert vae.use_slicing is False
    watch.remove()


def test_embeddings_draw_what_the_sentence_draws(name: str, backbone: Any) -> None:
    pipe, side = pipe_of(backbone), backbone.resolution
    words = OWN_WORDS.get(name, {"negative_prompt": ""})
    with _diffusers.sampling(pipe, backbone.schedulers[0]):
        expected = pipe(
            prompt=CAPTION,
            latents=backbone._packed(noise_of(backbone)),
            num_inference_steps=STEPS,
            height=side,
            width=side,
            **words,
            **backbone._guided(3.0),
        ).images
    drawn = draw(backbone, backbone.encode(CAPTION), [backbone.encode_negative("")], [0])
    assert alike(drawn[0], expected[0])


def test_noisy_latents_and_targets_are_the_librarys(backbone: Any) -> None:
    latents, t = noise_of(backbone, 1).expand(1000, -1, -1, -1), torch.arange(1000)
    noise = torch.randn(latents.shape, generator=generator(2))
    diffused = backbone.add_noise(latents[:1], noise, t)
    if backbone.objective == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        times = scheduler.timesteps.flip(0)
        assert torch.allclose(diffused.noisy, scheduler.scale_noise(latents, times, noise), atol=1e-5)
        assert torch.equal(diffused.target, noise - latents)
        return
    ddpm = DDPMScheduler.from_config(pipe_of(backbone).scheduler.config)
    assert torch.equal(diffused.noisy, ddpm.add_noise(latents, noise, t))
    is_v = backbone.objective == "v_prediction"
    assert torch.equal(diffused.target, ddpm.get_velocity(latents, noise, t) if is_v else noise)


@contextmanager
def two_levels(backbone: Any) -> Iterator[dict[str, Any]]:
    """A sampler that stops at the levels 999 and 499, and what the pipeline must be given for that."""
    pipe = pipe_of(backbone)
    own = pipe.scheduler
    if backbone.objective == "flow":
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    else:
        pipe.scheduler = DDIMScheduler.from_config(
            own.config,
            timestep_spacing="trailing",
            steps_offset=0,
            set_alpha_to_one=True,
            clip_sample=False,
            use_karras_sigmas=False,
        )
    try:
        yield {"sigmas": [1.0, 0.5]} if backbone.objective == "flow" else {}
    finally:
        pipe.scheduler = own


def test_predicting_and_stepping_is_what_the_pipeline_does(backbone: Any) -> None:
    """Time, sign, scale and packing: two steps from pure noise end in the pipeline's own picture."""
    sentence, side = backbone.encode(CAPTION), backbone.resolution
    noise = noise_of(backbone)
    with two_levels(backbone) as settings:
        expected = pipe_of(backbone)(
            **backbone.pipeline_kwargs(sentence, [backbone.encode_negative("")]),
            **backbone._guided(1.0),
            **settings,
            latents=backbone._packed(noise),
            num_inference_steps=2,
            height=side,
            width=side,
        ).images
    with torch.no_grad():
        halfway = backbone.step(noise, backbone.predict(noise, torch.tensor([999]), sentence), 999, 499)
        clean = backbone.step(halfway, backbone.predict(halfway, torch.tensor([499]), sentence), 499, -1)
    assert alike(backbone.decode(clean)[0], expected[0])
    assert not alike(backbone.decode(halfway)[0], expected[0])


@pytest.mark.parametrize("placement", ["replace", "append"])
def test_a_gradient_reaches_every_row_of_the_tail_and_no_weight(backbone: Any, placement: Any) -> None:
    sentence = backbone.encode(LONG)
    tail = take_tail(sentence, TAIL).requires_grad_()
    t = torch.tensor([10, 900])
    with backbone.training_mode():
        diffused = backbone.add_noise(noise_of(backbone, 1), torch.cat([noise_of(backbone, 2)] * 2), t)
        predicted = backbone.predict(diffused.noisy, t, place_tail(sentence, tail, placement))
        (predicted - diffused.target).square().mean().backward()
    assert predicted.shape == (2, *backbone.latent_shape)
    assert predicted.dtype == torch.float32
    assert tail.grad is not None
    assert bool((tail.grad.abs().amax(dim=1) > 0).all())
    weights = [weight for part in backbone._modules().values() for weight in part.parameters()]
    assert all(weight.grad is None for weight in weights)


def test_a_gradient_reaches_a_learnt_word_in_every_text_encoder(backbone: Any) -> None:
    with backbone.training_mode(texts=True):
        vectors = {each: start.requires_grad_() for each, start in backbone.token_embeddings("dog").items()}
        conditioning = backbone.encode_with_token_embeddings("a standing <dog>", "<dog>", vectors)
        backbone.predict(noise_of(backbone), torch.tensor([500]), conditioning).square().mean().backward()
    assert [piece for piece in conditioning.words_per_token if piece and piece != "(the end mark)"][
        -1
    ] == "<dog>"
    assert len(vectors) == len([part for part in backbone._modules() if part.startswith("text_encoder")])
    assert all(vector.grad is not None and bool(vector.grad.any()) for vector in vectors.values())


def test_while_fitting_only_the_denoiser_is_in_memory(backbone: Any) -> None:
    before = backbone.weights_sha256()
    with backbone.training_mode():
        for part, module in backbone._modules().items():
            held = sum(weight.untyped_storage().nbytes() for weight in module.parameters())
            assert (held > 0) == (part == backbone.denoiser_name), part
    assert backbone.weights_sha256() == before


@pytest.mark.filterwarnings("ignore:.* to draw without guidance")  # klein
def test_a_short_fit_lowers_the_loss_and_an_edit_restores_every_weight(backbone: Any, fit: Fit) -> None:
    figures = fit.artifact.figures
    assert figures["loss_after"] < 0.9997 * figures["loss_before"]
    hiper.edit(backbone, fit.artifact, TARGET, num_inference_steps=1, guidance_scale=3.0)
    assert backbone.weights_sha256() == fit.weights
    assert backbone.model_key() == fit.key


def test_a_tail_changes_the_picture(backbone: Any, artifact: hiper.Artifact) -> None:
    with_tail, without = (
        hiper.edit(backbone, artifact, TARGET, num_inference_steps=STEPS, strength=strength, keep=0).images[0]
        for strength in (1.0, 0.0)
    )
    assert levels(with_tail, without).mean() > 0.1


def test_a_picture_depends_on_its_own_seed_alone(backbone: Any, artifact: hiper.Artifact) -> None:
    three, four = hiper.edit(backbone, artifact, TARGET, num_inference_steps=STEPS, seeds=[3, 4]).images
    (alone,) = hiper.edit(backbone, artifact, TARGET, num_inference_steps=STEPS, seeds=[4]).images
    assert alike(four, alone)
    assert not alike(three, alone)


def test_negative_sentences_of_any_length_are_heard(
    name: str, backbone: Any, artifact: hiper.Artifact
) -> None:
    if name in UNHEARD:
        with pytest.warns(HiperWarning, match="ignored"):
            hiper.edit(backbone, artifact, TARGET, num_inference_steps=1, negative_prompt=SHORT)
        return
    settings: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "keep": 0}
    both = hiper.edit(
        backbone, artifact, TARGET, seeds=[1, 1], negative_prompt=[LONG, SHORT], **settings
    ).images
    for image, negative in zip(both, (LONG, SHORT), strict=True):
        alone = hiper.edit(
            backbone, artifact, TARGET, seeds=[1], negative_prompt=negative, **settings
        ).images[0]
        assert alike(image, alone)
    assert not alike(*both)
    kept = hiper.edit(
        backbone, artifact, TARGET, seeds=[1, 1], negative_prompt=[LONG, SHORT], **{**settings, "keep": 0.5}
    )
    assert kept.settings.keep == 0.5
    assert len(kept.images) == 2


@pytest.mark.filterwarnings("ignore:.* to draw without guidance")  # klein
def test_several_tails_and_a_negative_one_are_heard(
    name: str, backbone: Any, artifact: hiper.Artifact
) -> None:
    """Or are said not to be; the tail behind the sentence itself stays what it is."""
    other = replace(artifact, tensors={"tail": artifact.tensors["tail"].flip(0, 1)})

    def drawn(artifacts: list[hiper.Artifact], **negative: Any) -> PIL.Image.Image:
        return hiper.edit(
            backbone, artifacts, TARGET, num_inference_steps=STEPS, guidance_scale=3.0, **negative
        ).images[0]

    alone = drawn([artifact])
    assert levels(alone, drawn([artifact, other])).max() > 0
    if name in UNHEARD:
        with pytest.warns(HiperWarning, match="ignored"):
            drawn([artifact], negative=other)
    else:
        assert levels(alone, drawn([artifact], negative=other)).max() > 0


@pytest.mark.filterwarnings("ignore:.* to draw without guidance")  # klein
def test_an_edit_is_the_plain_pipelines_own(backbone: Any, artifact: hiper.Artifact) -> None:
    pipe, side = pipe_of(backbone), backbone.resolution
    settings = {"num_inference_steps": STEPS, "height": side, "width": side, **backbone._guided(3.0)}
    with _diffusers.sampling(pipe, backbone.schedulers[0]):
        embeds = hiper.prompt_embeds(pipe, artifact, TARGET)
        expected = pipe(**embeds, latents=backbone._packed(noise_of(backbone)), **settings).images[0]
    assert alike(
        hiper.edit(backbone, artifact, TARGET, num_inference_steps=STEPS, guidance_scale=3.0, keep=0).images[
            0
        ],
        expected,
    )


def test_methods_that_need_more_are_refused(backbone: Any, subject: Any) -> None:
    for method in map(get_method, METHODS):
        if lacking := method.requires - backbone.capabilities:
            with pytest.raises(OptionError, match=f"requires {', '.join(sorted(lacking))}, which"):
                hiper.fit(backbone, subject, method=method.name)
        else:
            method.check(backbone)


@pytest.mark.filterwarnings("ignore:the fit did not lower")  # after one step it need not
@pytest.mark.filterwarnings("ignore:.* to draw without guidance")  # klein
def test_every_method_that_it_offers_to_fits_and_edits(
    name: str, backbone: Any, fit: Fit, subject: Any
) -> None:
    """All methods on a few families; on every one those that reach into its modules."""
    methods = METHODS.keys() - {"hiper"} if name in WHOLE else INTO_MODULES  # hiper has tests of its own
    for method in sorted(methods):
        if get_method(method).requires <= backbone.capabilities:
            learnt = hiper.fit(backbone, subject, method=method, **tiny.ONE_STEP[method])
            assert (
                len(
                    hiper.edit(backbone, learnt, TARGET, num_inference_steps=STEPS, guidance_scale=2.0).images
                )
                == 1
            ), method
            assert backbone.weights_sha256() == fit.weights, method
            assert backbone.model_key() == fit.key, method


def test_an_artifact_is_saved_loaded_and_refused_elsewhere(
    name: str, backbone: Any, artifact: hiper.Artifact, tmp_path: Path, sd1: Any
) -> None:
    loaded = hiper.Artifact.load(artifact.save(tmp_path / "dog.safetensors"))
    assert loaded.family == backbone.family
    one, other = (
        hiper.edit(backbone, each, TARGET, num_inference_steps=1).images[0] for each in (artifact, loaded)
    )
    assert one.tobytes() == other.tobytes()
    if backbone.family != sd1.family:
        with pytest.raises(ArtifactError, match=f"fitted on .* \\({backbone.family}, .* use that model"):
            hiper.edit(sd1, loaded, TARGET)


def test_bfloat16_draws_and_lets_gradients_through(name: str) -> None:
    backbone = build(name, torch.bfloat16)
    sentence = backbone.encode(CAPTION)
    tail = take_tail(sentence, TAIL).requires_grad_()
    placed = place_tail(sentence, tail, backbone.placement)
    assert (sentence.token_embeddings.dtype, tail.dtype) == (torch.float32, torch.float32)
    with backbone.training_mode():
        backbone.predict(noise_of(backbone), torch.tensor([500]), placed).square().mean().backward()
    assert tail.grad is not None
    assert bool((tail.grad.abs().amax(dim=1) > 0).all())
    assert len(draw(backbone, sentence, [backbone.encode_negative("")], [0], num_inference_steps=1)) == 1


def test_a_side_that_does_not_fit_is_refused(backbone: Any) -> None:
    with pytest.raises(OptionError, match="multiples of"):
        backbone.resize(backbone.size_multiple + 1)


@pytest.mark.parametrize("name", ["sd1", "pixart"])
def test_an_autoencoder_that_overflows_in_float16_decodes_in_float32(name: str) -> None:
    backbone = build(name, torch.float16)
    vae = backbone._pipe.vae
    with torch.no_grad():
        vae.post_quant_conv.weight.mul_(1e4)
        vae.decoder.conv_in.weight.mul_(100)  # the norm that follows forgets both factors
        assert not vae.decode(torch.ones(1, 4, 8, 8).half()).sample.isfinite().all()
    sentence = backbone.encode(SHORT)
    (image,) = backbone.sample(
        *(sentence, [sentence]),
        backbone.sampling_settings(num_inference_steps=1, guidance_scale=1.0),
        seeds=[0],
    ).images
    assert any(low < high for low, high in image.getextrema())
    assert (vae.dtype, "decode" in vars(vae)) == (torch.float16, False)


def test_not_a_number_is_an_error_and_no_black_picture(backbone: Any) -> None:
    sentence = backbone.encode(SHORT)
    broken = replace(sentence, token_embeddings=torch.full_like(sentence.token_embeddings, torch.nan))
    with pytest.raises(hiper.HiperError, match="NaN"):
        draw(backbone, broken, [replace(broken, prompt="")], [0], num_inference_steps=1)
