"""The fit node for ComfyUI against hiper itself, and with the models and patches that ComfyUI gives it."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hiper
from hiper.artifacts import Artifact
from hiper.backbones.sd import SdBackbone
from hiper.conditioning import place_tail
from hiper.errors import HiperWarning
from tests import tiny
from tests.comfy_host import Cancelled, Edm, Host, Model, attention_pytorch, fit, image


@pytest.mark.parametrize("placement", ["replace", "append"])
def test_the_loss_is_hipers_own(comfy_pack: Any, comfy: Host, backbone: SdBackbone, placement: Any) -> None:
    """For noise prediction and for velocity, although ComfyUI shows denoised pictures only."""
    random = torch.Generator().manual_seed(1)
    latent, noise = torch.randn(1, 4, 8, 8, generator=random), torch.randn(3, 4, 8, 8, generator=random)
    t = torch.tensor([20, 400, 950])
    model = Model(backbone)
    caption = backbone.encode("a standing dog")
    placed = place_tail(caption, torch.randn(4, tiny.EMBED, generator=random), placement)
    more = {"pooled_output": caption.token_embeddings.mean(1)}
    objective = comfy_pack.objective.Objective(model, latent, [caption.token_embeddings, more])
    diffused = backbone.add_noise(latent, noise, t)
    with torch.no_grad():
        expected = (backbone.predict(diffused.noisy, t, placed) - diffused.target).square().mean()
        found = objective.loss(placed.token_embeddings, noise, t)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_a_fit_as_comfyui_runs_it(comfy_pack: Any, comfy: Host, sd1: SdBackbone) -> None:
    """Everything under inference mode, the loading of the weights too."""
    with torch.inference_mode():
        model = Model(sd1)
        unet = model.model.diffusion_model
        assert next(unet.parameters()).is_inference()
        before = {name: weight.clone() for name, weight in unet.state_dict().items()}
        tail = fit(comfy_pack, model)
        again = fit(comfy_pack, model)
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())
    assert not any(weight.requires_grad for weight in unet.parameters())
    assert (comfy.progress, len(comfy.loads)) == (40, 2)
    assert torch.equal(tail.embeddings, again.embeddings)
    assert (tail.embeddings.shape, tail.family, tail.placement) == ((4, tiny.EMBED), "sd", "replace")


@pytest.mark.slow
def test_a_fit_learns_and_hiper_draws_with_it(comfy_pack: Any, comfy: Host, sd1: SdBackbone) -> None:
    """The loss on noise and levels held fixed falls; the saved file is an artifact like any other."""
    model = Model(sd1)
    tail = fit(comfy_pack, model, steps=60, caption="a standing\x1b dog")
    caption = sd1.encode("a standing dog")
    random = torch.Generator().manual_seed(9)
    latent = model.model.process_latent_in(
        model.encode(comfy_pack.fitting.centre_square(image(), tiny.RESOLUTION))
    )
    noise, t = torch.randn(20, 4, 8, 8, generator=random), torch.arange(25, 1000, 50)
    more = {"pooled_output": caption.token_embeddings.mean(1)}
    objective = comfy_pack.objective.Objective(model, latent, [caption.token_embeddings, more])
    with torch.no_grad():
        before = objective.loss(caption.token_embeddings, noise, t)
        after = objective.loss(place_tail(caption, tail.embeddings, "replace").token_embeddings, noise, t)
    assert after < before
    name = comfy_pack.classes["HiperSaveTail"]().save(tail, "dog")["ui"]["text"][0]
    saved = Artifact.load(comfy.models / "hiper" / name)
    assert (saved.caption, saved.seed, saved.options["tail"]) == ("a standing dog", 3, 4)
    with pytest.warns(HiperWarning, match="weights differ"):  # the node does not know the checkpoint
        result = hiper.edit(sd1, saved, "a sitting dog", num_inference_steps=1)
    assert (result.settings.strength, result.settings.guidance_scale) == (0.8, sd1.default_guidance_scale)
    assert result.settings.scheduler == sd1.schedulers[0]


def test_a_gradient_that_is_none_in_the_last_step_gives_no_tail(
    comfy_pack: Any, comfy: Host, sd1: SdBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root of 0 has a value and no derivative, as what a patch computes may."""
    module = comfy_pack.objective.Objective
    monkeypatch.setattr(module, "loss", lambda self, rows, noise, t: (rows * 0).sum().sqrt())
    with pytest.raises(ValueError, match="gradient is not finite at step 1"):
        fit(comfy_pack, Model(sd1), steps=1)


def test_cancel_stops_between_two_steps(comfy_pack: Any, comfy: Host, sd1: SdBackbone) -> None:
    comfy.cancel_at = 3
    weights = sd1.weights_sha256()
    with pytest.raises(Cancelled):
        fit(comfy_pack, Model(sd1))
    assert comfy.progress == 3
    assert sd1.weights_sha256() == weights
    assert not (comfy.models / "hiper").exists()


def test_a_model_that_the_fit_does_not_know_is_refused_before_the_work(
    comfy_pack: Any, comfy: Host, sd1: SdBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(comfy_pack.objective.FAMILIES, tiny.EMBED)
    with pytest.raises(ValueError, match=r"32 numbers cannot be fitted here, but sd1 \(768\)"):
        fit(comfy_pack, Model(sd1))
    assert not comfy.loads


@pytest.mark.parametrize("shape", [(1, 64, 48, 3), (2, 40, 100, 4)])
def test_pictures_become_square(comfy_pack: Any, shape: tuple[int, ...]) -> None:
    picture = torch.linspace(0, 1, shape[2])[None, None, :, None].expand(shape)
    cut = comfy_pack.fitting.centre_square(picture, 32)
    assert cut.shape == (1, 32, 32, 3)
    assert 0 <= float(cut.min()) <= float(cut.max()) <= 1
    assert float(cut.mean()) == pytest.approx(0.5, abs=0.01), "the middle is kept"
    assert torch.equal(comfy_pack.fitting.centre_square(picture, 0), picture[:1, :, :, :3])


# other models


def test_the_loss_of_an_edm_model(comfy_pack: Any, comfy: Host, sd1: SdBackbone) -> None:
    """Its times are logarithms of sigma, while the table of sigmas is what every model has."""
    random = torch.Generator().manual_seed(1)
    latent, noise = torch.randn(1, 4, 8, 8, generator=random), torch.randn(3, 4, 8, 8, generator=random)
    t, rows = torch.tensor([20, 400, 950]), sd1.encode("a standing dog").token_embeddings
    model = Model(sd1, kind=Edm)
    sigma = model.model.model_sampling.sigmas[t].view(-1, 1, 1, 1)
    scaled = (latent + sigma * noise) / (sigma**2 + 1) ** 0.5
    velocity = (noise - sigma * latent) / (sigma**2 + 1) ** 0.5
    output = model.model.diffusion_model(scaled, t, rows.expand(3, -1, -1), return_dict=False)[0]
    objective = comfy_pack.objective.Objective(model, latent, [rows, {"pooled_output": rows.mean(1)}])
    with torch.no_grad():
        found = float(objective.loss(rows, noise, t))
    assert found == pytest.approx(float((output + velocity).square().mean()), rel=1e-4)


def test_an_inpainting_model_is_fitted(comfy_pack: Any, comfy: Host, sd1: SdBackbone) -> None:
    config = {**sd1._pipe.unet.config, "in_channels": 9}
    unet = type(sd1._pipe.unet).from_config(config)
    tail = fit(comfy_pack, Model(sd1, unet=unet), steps=2)
    assert bool(tail.embeddings.isfinite().all())


@pytest.mark.slow
def test_float16_learns_along_the_gradient_of_float32(comfy_pack: Any, comfy: Host, sd1: SdBackbone) -> None:
    """A denoiser that looks at its text as little as real ones do; unscaled, the cosine is .9993."""
    unet = copy.deepcopy(sd1._pipe.unet)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
                weight.div_(60)
    random = torch.Generator().manual_seed(0)
    latent, noise = torch.randn(1, 4, 8, 8, generator=random), torch.randn(4, 4, 8, 8, generator=random)
    t, rows = torch.tensor([100, 400, 600, 900]), sd1.encode("a standing dog").token_embeddings
    found = {}
    for dtype in (torch.float32, torch.float16):
        model = Model(sd1, unet=copy.deepcopy(unet).to(dtype))
        objective = comfy_pack.objective.Objective(model, latent, [rows, {"pooled_output": rows.mean(1)}])
        tail = rows[0, -4:].clone().requires_grad_()
        scale = comfy_pack.fitting.LOSS_SCALE if objective.is_float16 else 1.0

        def loss(objective: Any = objective, tail: Any = tail) -> torch.Tensor:
            placed = torch.cat([rows[:, :-4], tail[None]], dim=1)
            return objective.loss(placed, noise, t)  # type: ignore[no-any-return]

        _, found[dtype], _ = comfy_pack.fitting._loss_and_gradient(loss, tail, scale, False)
    pair = (found[torch.float32].flatten(), found[torch.float16].flatten())
    assert float(torch.nn.functional.cosine_similarity(*pair, dim=0)) > 0.9999


def test_a_scale_too_large_for_float16_is_halved(comfy_pack: Any) -> None:
    tail = torch.ones(1, 4, requires_grad=True)

    def loss() -> torch.Tensor:
        return (tail.half() * 8).sum().float()

    _, gradient, scale = comfy_pack.fitting._loss_and_gradient(loss, tail, 2.0**16, False)
    assert scale == 2.0**12
    assert torch.equal(gradient, torch.full((1, 4), 8.0))


# what ComfyUI does to a model


def without_backward(*args: Any, **options: Any) -> torch.Tensor:
    """As SageAttention: right values, and no gradient."""
    with torch.no_grad():
        return attention_pytorch(*args, **options)


@pytest.mark.parametrize("by_node", [False, True])
def test_attention_without_a_backward_pass_is_left_out_of_the_fit(
    comfy_pack: Any, comfy: Host, sd1: SdBackbone, by_node: bool
) -> None:
    model = Model(sd1, attention=attention_pytorch if by_node else without_backward)
    if by_node:
        override = {
            "optimized_attention_override": lambda _, *args, **options: without_backward(*args, **options)
        }
        model.model_options["transformer_options"] = override
    expected = fit(comfy_pack, Model(sd1), steps=3)
    assert torch.equal(fit(comfy_pack, model, steps=3).embeddings, expected.embeddings)


class Streamed(Model):
    """A MODEL whose weights lie in memory that the next layers overwrite, as newer versions of ComfyUI have it."""

    def is_dynamic(self) -> bool:
        return True

    def clone(self, disable_dynamic: bool = False) -> Any:
        assert disable_dynamic
        self.static = Model(self._backbone)
        self.static.model_options = self.model_options
        return self.static


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_streamed_model_is_loaded_whole(
    comfy_pack: Any, comfy: Host, sd1: SdBackbone, cancelled: bool
) -> None:
    import comfy.model_management as management

    model, seen = Streamed(sd1), list[bool]()

    def patch(h: torch.Tensor, hsp: torch.Tensor, _: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(management.in_training)
        return h, hsp

    model.model_options["transformer_options"] = {"patches": {"output_block_patch": [patch]}}
    comfy.cancel_at = 1 if cancelled else 10**9
    with pytest.raises(Cancelled) if cancelled else nullcontext():
        fit(comfy_pack, model, steps=3)
    (load,) = comfy.loads
    assert load["model"] is model.static
    assert load["force_full_load"]
    assert load["memory_required"] >= 1e18
    assert set(seen) == {True}
    assert management.in_training is False


def in_place(h: torch.Tensor, hsp: torch.Tensor, _: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """As FreeU_V2: half of the channels, times what depends on them."""
    h[:, : h.shape[1] // 2] = h[:, : h.shape[1] // 2] * (0.3 * h.mean(1, keepdim=True) + 1)
    return h, hsp


def out_of_place(h: torch.Tensor, hsp: torch.Tensor, _: Any) -> tuple[torch.Tensor, torch.Tensor]:
    half = h.shape[1] // 2
    return torch.cat([h[:, :half] * (0.3 * h.mean(1, keepdim=True) + 1), h[:, half:]], dim=1), hsp


def with_patch(sd1: SdBackbone, patch: Any) -> Model:
    model = Model(sd1)
    model.model_options["transformer_options"] = {"patches": {"output_block_patch": [patch]}}
    return model


@pytest.mark.slow
def test_a_patch_that_writes_into_activations(comfy_pack: Any, comfy: Host, sd1: SdBackbone) -> None:
    found = fit(comfy_pack, with_patch(sd1, in_place), steps=3).embeddings
    assert torch.allclose(
        found, fit(comfy_pack, with_patch(sd1, out_of_place), steps=3).embeddings, atol=1e-6
    )
    assert not torch.allclose(found, fit(comfy_pack, Model(sd1), steps=3).embeddings, atol=1e-6)


def test_a_patch_that_lets_no_gradient_through_is_told(comfy_pack: Any, comfy: Host, sd1: SdBackbone) -> None:
    with pytest.raises(ValueError, match="no gradient through this MODEL") as caught:
        fit(comfy_pack, with_patch(sd1, lambda h, hsp, _: (h.detach(), hsp)))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_patch_that_draws_random_numbers(comfy_pack: Any, comfy: Host, sd1: SdBackbone) -> None:
    """As HyperTile: the fit's seed decides them, and the next node finds the generator as it was."""
    state = torch.get_rng_state()
    model = with_patch(sd1, lambda h, hsp, _: (h * (1 + torch.rand(1)), hsp))
    first = fit(comfy_pack, model, steps=3).embeddings
    torch.rand(7)
    torch.set_rng_state(state)
    assert torch.equal(fit(comfy_pack, model, steps=3).embeddings, first)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_wrapper_around_the_model_is_called(comfy_pack: Any, comfy: Host, sd1: SdBackbone) -> None:
    model, calls = Model(sd1), list[int]()

    def wrapper(apply_model: Any, given: dict[str, Any]) -> Any:
        calls.append(len(given["cond_or_uncond"]))
        return apply_model(given["input"], given["timestep"], **given["c"])

    model.model_options["model_function_wrapper"] = wrapper
    assert torch.equal(
        fit(comfy_pack, model, steps=2).embeddings, fit(comfy_pack, Model(sd1), steps=2).embeddings
    )
    assert calls == [2, 2]


# what does not go together


def scheduled(model: Model) -> Any:
    model.encode_from_tokens_scheduled = lambda text: [[torch.zeros(1, 77, tiny.EMBED), {}]] * 2  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda model: {"image": image().expand(2, -1, -1, -1)}, "2 pictures"),
        (lambda model: {"clip": None}, "no CLIP"),
        (lambda model: {"clip": scheduled(model)}, "2 conditionings"),
        (lambda model: {"vae": SimpleNamespace(encode=lambda _: torch.zeros(1, 16, 4, 4))}, "16 channels"),
    ],
)
def test_inputs_that_do_not_go_together(
    comfy_pack: Any, comfy: Host, sd1: SdBackbone, change: Any, expected: str
) -> None:
    model = Model(sd1)
    with pytest.raises(ValueError, match=expected):
        fit(comfy_pack, model, **change(copy.copy(model)))
    assert not comfy.loads


@pytest.mark.parametrize(
    ("config", "embed", "expected"),
    [
        ({"context_dim": 768}, 2048, "takes token embeddings of 768 numbers and the CLIP gives 2048"),
        ({"image_model": "flux"}, 4096, "4096 numbers cannot be fitted"),
        ({"image_model": "hydit"}, 1024, "1024 numbers cannot be fitted"),
        ({"image_model": "omnigen2"}, 2048, "2048 numbers cannot be fitted"),
        ({"in_channels": 16}, 4096, "4096 numbers cannot be fitted"),
        ({"context_dim": 1280}, 1280, "1280 numbers cannot be fitted"),
    ],
)
def test_models_of_other_families_are_refused(
    comfy_pack: Any, config: dict[str, Any], embed: int, expected: str
) -> None:
    base = SimpleNamespace(model_config=SimpleNamespace(unet_config=config))
    with pytest.raises(ValueError, match=expected):
        comfy_pack.objective.family_of(base, embed)
    assert (
        comfy_pack.objective.family_of(
            SimpleNamespace(model_config=SimpleNamespace(unet_config={"context_dim": 2048})), 2048
        )
        == "sdxl"
    )


def test_seeds_are_those_that_a_browser_and_hiper_can_hold(
    comfy_pack: Any, comfy: Host, sd1: SdBackbone
) -> None:
    """What is typed; a node that makes seeds may hand over any that a file takes."""
    seed = comfy_pack.classes["HiperFitTail"].INPUT_TYPES()["required"]["seed"][1]
    assert seed["max"] == 2**53 - 1
    tail = fit(comfy_pack, Model(sd1), steps=1, seed=2**63 - 1)
    name = comfy_pack.classes["HiperSaveTail"]().save(tail, "dog")["result"][0]
    assert Artifact.load(comfy.models / "hiper" / name).seed == 2**63 - 1
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=str(seed)):
            fit(comfy_pack, Model(sd1), steps=1, seed=seed)
    assert len(comfy.loads) == 1
