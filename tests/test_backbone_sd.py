"""The Stable Diffusion backbone against plain diffusers."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessorPil

from hiper.backbones import load_backbone
from hiper.backbones.base import UNET_SCHEDULERS
from hiper.backbones.offloader import ModelOffloader
from hiper.backbones.offloading import Entered, Offloaded
from hiper.backbones.sd import SdBackbone
from hiper.errors import BackboneError, HiperError
from hiper.seeds import generator
from tests import tiny

STEPS = 3


def pipe_of(backbone: SdBackbone) -> Any:
    return backbone._pipe


def test_encoding_is_the_pipelines_own(backbone: SdBackbone) -> None:
    expected, _ = pipe_of(backbone).encode_prompt("a sitting dog", "cpu", 1, False)
    conditioning = backbone.encode("a sitting dog")
    assert torch.equal(conditioning.token_embeddings, expected)
    assert conditioning.words_per_token == ("", "a", "sitting", "dog", "(the end mark)")
    assert conditioning.num_tokens == 5
    assert not conditioning.token_embeddings.requires_grad


def test_a_long_sentence_says_what_it_lost(sd1: SdBackbone) -> None:
    conditioning = sd1.encode(" ".join(["dog"] * 73 + ["cat", "xyz", "grass"]))
    assert conditioning.num_tokens == len(conditioning.words_per_token) == 77
    # one row is left for "xyz", which takes three
    assert conditioning.words_per_token[73:] == ("dog", "cat", "xyz", "(the end mark)")
    assert conditioning.truncated_words == ("xyz", "grass")


def test_an_empty_sentence_and_strange_letters_are_encoded(sd1: SdBackbone) -> None:
    assert sd1.encode("").num_tokens == 2
    assert torch.isfinite(sd1.encode("dög 🐶").token_embeddings).all()


def test_latents_are_one_draw_of_the_posterior(sd1: SdBackbone) -> None:
    from hiper.images import to_tensor

    image = tiny.picture(tiny.RESOLUTION)
    with torch.no_grad():
        posterior = pipe_of(sd1).vae.encode(to_tensor(image)).latent_dist
    expected = posterior.sample(generator=generator(3)) * pipe_of(sd1).vae.config.scaling_factor
    assert torch.equal(sd1.latents(image, generator(3)), expected)
    assert not torch.equal(sd1.latents(image, generator(4)), expected)


def test_the_two_kinds_differ_in_their_target(sd1: SdBackbone, sd2: SdBackbone) -> None:
    latents, noise, t = torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), torch.tensor([500])
    assert sd1.add_noise(latents, noise, t).target.abs().max() == 0
    assert sd2.add_noise(latents, noise, t).target.abs().max() > 0


def test_the_prediction_is_the_denoisers(backbone: SdBackbone) -> None:
    noisy = torch.randn(2, *backbone.latent_shape, generator=generator(0))
    sentence = backbone.encode("a dog")
    t = torch.tensor([10, 900])
    with torch.no_grad():
        rows = sentence.token_embeddings.expand(2, -1, -1)
        expected = pipe_of(backbone).unet(noisy, t, encoder_hidden_states=rows).sample
    assert torch.equal(backbone.predict(noisy, t, sentence), expected.detach())


def leaves(node: Any, seen: set[Any]) -> list[torch.Tensor]:
    """All tensors that a backward pass from `node` would store a gradient in."""
    if node is None or node in seen:
        return []
    seen.add(node)
    own = [node.variable] if hasattr(node, "variable") else []
    return own + [leaf for child, _ in node.next_functions for leaf in leaves(child, seen)]


def test_the_rows_are_the_only_thing_a_backward_pass_reaches(backbone: SdBackbone) -> None:
    sentence = backbone.encode("a dog")
    rows = sentence.token_embeddings.requires_grad_()
    with backbone.training_mode():
        output = backbone.predict(torch.randn(1, *backbone.latent_shape), torch.tensor([5]), sentence)
        assert [leaf is rows for leaf in leaves(output.grad_fn, set())] == [True]
        output.sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert bool((rows.grad.abs().amax(dim=-1) > 0).all())
    assert all(weight.grad is None for weight in pipe_of(backbone).unet.parameters())


def test_an_exception_while_fitting_restores_everything(sd1: SdBackbone) -> None:
    before = sd1.weights_sha256()
    pipe_of(sd1).unet.train()
    with pytest.raises(KeyError), sd1.training_mode():
        raise KeyError
    assert pipe_of(sd1).unet.training
    pipe_of(sd1).unet.eval()
    assert sd1.weights_sha256() == before


def test_parked_weights_come_back_while_another_model_is_built() -> None:
    module = torch.nn.Linear(3, 4)
    before = module.weight.detach().clone()
    away = Offloaded([module], torch.device("cpu"))
    away.__enter__()
    with torch.device("meta"):
        away.__exit__(None, None, None)
    assert torch.equal(module.weight, before)


@pytest.mark.slow
def test_what_is_dropped_while_it_is_offloaded_is_not_brought_back() -> None:
    modules = [torch.nn.Linear(3, 4), torch.nn.Linear(5, 6)]
    offloader = ModelOffloader({"text_encoder": modules[0]}, torch.device("cpu"))
    entered = Entered(lambda stack: stack.enter_context(Offloaded(modules[1:], torch.device("cpu"))))
    entered.__enter__()
    del offloader, entered
    gc.collect()
    assert [module.weight.numel() for module in modules] == [0, 0]


def test_what_could_not_be_brought_back_is_still_offloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 5)
    before = [weight.clone() for weight in (*first.parameters(), *second.parameters())]
    offloader = ModelOffloader({"text_encoder": first, "unet": second}, torch.device("cpu"))

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as lacking:
        lacking.setattr(torch, "empty_strided", full)
        with pytest.raises(torch.OutOfMemoryError):
            offloader.load_only(["unet"])
    assert sorted(offloader.away) == ["text_encoder", "unet"]
    offloader.load_only(["text_encoder", "unet"])
    after = (*first.parameters(), *second.parameters())
    assert all(torch.equal(weight, value) for weight, value in zip(after, before, strict=True))


def test_parking_keeps_the_memory_format_and_every_dtype() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.LayerNorm(4)).to(torch.bfloat16)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = [(weight.clone(), weight.stride()) for weight in module.parameters()]
    with Offloaded([module], torch.device("cpu")):
        assert sum(weight.numel() for weight in module.parameters()) == 0
    for weight, (value, stride) in zip(module.parameters(), before, strict=True):
        assert torch.equal(weight, value)
        assert weight.stride() == stride


def draw(backbone: SdBackbone, seeds: list[int], **settings: Any) -> list[bytes]:
    sentence, nothing = backbone.encode("a sitting dog"), backbone.encode("")
    chosen = {"num_inference_steps": STEPS, "guidance_scale": 7.5, "scheduler": "ddim", **settings}
    drawn = backbone.sample(sentence, [nothing], backbone.sampling_settings(**chosen), seeds=seeds)
    return [image.tobytes() for image in drawn.images]


def test_samples_are_those_of_the_plain_pipeline(backbone: SdBackbone) -> None:
    pipe = pipe_of(backbone)
    own = pipe.scheduler
    pipe.scheduler = DDIMScheduler.from_config(own.config)
    expected = pipe(
        ["a sitting dog"] * 2,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        generator=[generator(1), generator(2)],
    ).images
    pipe.scheduler = own
    assert draw(backbone, [1, 2]) == [image.tobytes() for image in expected]
    assert pipe.scheduler is own


@pytest.mark.slow
@pytest.mark.parametrize("name", UNET_SCHEDULERS)
def test_every_scheduler_draws_and_differs(sd2: SdBackbone, name: str) -> None:
    (image,) = draw(sd2, [0], scheduler=name, num_inference_steps=5)
    assert len(set(image)) > 8
    assert name == "ddim" or image != draw(sd2, [0], num_inference_steps=5)[0]


def test_an_unknown_scheduler_names_the_nearest(sd1: SdBackbone) -> None:
    with pytest.raises(HiperError, match=r"unipc-karras, euler, pndm \(did you mean ddim\?\)"):
        draw(sd1, [0], scheduler="dimm")


def test_other_sizes_are_drawn(sd1: SdBackbone) -> None:
    assert len(draw(sd1, [0], height=40, width=24)[0]) == 40 * 24 * 3


@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_the_callback_counts_the_steps(sd1: SdBackbone, name: str) -> None:
    calls: list[tuple[int, int]] = []
    sentence, settings = sd1.encode("a dog"), sd1.sampling_settings(num_inference_steps=STEPS, scheduler=name)
    sd1.sample(
        sentence, [sentence], settings, seeds=[0], callback=lambda done, total: calls.append((done, total))
    )
    assert calls[0] == (1, STEPS)
    assert calls[-1] == (STEPS, STEPS)


def strict_checker() -> dict[str, Any]:
    """A safety checker that flags every picture."""
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(
        vision_config={**vision, "image_size": 16, "patch_size": 16, "projection_dim": 8}, projection_dim=8
    )
    checker = StableDiffusionSafetyChecker(config)
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-2)  # every likeness is above -2
    processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return {"safety_checker": checker, "feature_extractor": processor}


def test_a_flagged_picture_is_reported() -> None:
    backbone = SdBackbone.from_pipeline(tiny.pipeline(**strict_checker()))
    sentence = backbone.encode("a dog")
    samples = backbone.sample(
        sentence,
        [sentence],
        backbone.sampling_settings(
            num_inference_steps=1, guidance_scale=1.0, scheduler="ddim", height=32, width=32
        ),
        seeds=[1, 2],
    )
    assert samples.flagged == (True, True)
    assert samples.images[0].getextrema() == ((0, 0), (0, 0), (0, 0))


def test_a_fingerprint_survives_a_change_of_dtype_and_tells_checkpoints_apart(sd1: SdBackbone) -> None:
    from hiper.artifacts.artifact import FINGERPRINT_TOLERANCE, fingerprint_distance

    print_ = sd1.fingerprint()
    assert len(print_) == 256
    for dtype in (torch.float16, torch.bfloat16):
        same = SdBackbone.from_pipeline(tiny.pipeline("sd1").to(dtype))
        assert fingerprint_distance(same.fingerprint(), print_) < FINGERPRINT_TOLERANCE
    other = SdBackbone.from_pipeline(tiny.pipeline("sd1", seed=1))
    assert fingerprint_distance(other.fingerprint(), print_) > FINGERPRINT_TOLERANCE


def test_the_weights_hash_sees_every_weight() -> None:
    backbone = SdBackbone.from_pipeline(tiny.pipeline("sd1"))
    before = backbone.weights_sha256()
    with torch.no_grad():
        pipe_of(backbone).vae.decoder.conv_out.bias[0] += 1e-6
    assert backbone.weights_sha256() != before


def test_a_pipeline_of_mixed_dtypes_is_refused() -> None:
    pipe = tiny.pipeline("sd1")
    pipe.text_encoder.to(torch.float16)
    with pytest.raises(BackboneError, match=r"mixes torch.float16 and torch.float32"):
        SdBackbone.from_pipeline(pipe)


@pytest.mark.slow
def test_a_folder_gives_what_plain_diffusers_gives(model_folder: Path) -> None:
    backbone = load_backbone(model_folder, device="cpu")
    pipe = StableDiffusionPipeline.from_pretrained(
        model_folder, safety_checker=None, requires_safety_checker=False, local_files_only=True
    )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe("a sitting dog", num_inference_steps=STEPS, generator=generator(5)).images[0]
    assert isinstance(backbone, SdBackbone)
    assert draw(backbone, [5]) == [expected.tobytes()]


def test_a_folder_without_the_text_encoder_s_last_layer_is_clip_skip_2(tmp_path: Path) -> None:
    pipe = tiny.pipeline("sd1")
    text = pipe.text_encoder
    ids = pipe.tokenizer("a sitting dog", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():  # as `clip_skip=1` of the pipeline's own call is meant
        expected = text.final_layer_norm(text(ids, output_hidden_states=True).hidden_states[-2])
    text.encoder.layers = text.encoder.layers[:-1]
    text.config.num_hidden_layers -= 1
    pipe.save_pretrained(tmp_path)
    rows = load_backbone(tmp_path, device="cpu").encode("a sitting dog").token_embeddings
    assert torch.equal(rows, expected)
