"""The time that each denoiser is given: in half precision the same as in float32, and as its own pipeline gives it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hiper.backbones.registry import wrap
from hiper.conditioning import Conditioning
from tests import tiny, tiny_families

ROUNDED_BY_THE_LIBRARY = ("flux-dev", "flux-schnell", "klein", "klein-base", "qwen-image")
"""Their pipelines round the timestep to the model's dtype before the call, and their transformers inside it."""
STEPS = 3


class _Seen(Exception):
    """The denoiser has been called; its work is not needed."""


@pytest.fixture(scope="module", params=("sd1", "sd2", *tiny_families.FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pipe(family: str) -> Any:
    """The family's pipeline, of which every test takes the dtype that it needs."""
    return tiny_families.pipeline(family) if family in tiny_families.FAMILIES else tiny.pipeline(family)  # type: ignore[arg-type]


def load(pipe: Any, dtype: torch.dtype) -> Any:
    backbone = wrap(pipe.to(dtype))
    backbone.resize(tiny_families.SIDE)
    return backbone


def listened(backbone: Any, calls: list[dict[str, Any]], *, stop: bool = False) -> Any:
    """Add what the denoiser is called with to `calls`, by the names of its arguments."""

    def hear(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        added = bound.get("added_cond_kwargs") or {}
        calls.append({**bound, "timestep": bound.get("timestep", bound.get("t")), **added})
        if stop:
            raise _Seen

    return backbone.denoiser.register_forward_pre_hook(hear, with_kwargs=True)


def given(backbone: Any, t: Tensor, sentence: Conditioning) -> dict[str, Any]:
    """What a fit calls the denoiser with at the timesteps t [batch]."""
    calls: list[dict[str, Any]] = []
    handle = listened(backbone, calls, stop=True)
    with pytest.raises(_Seen):
        backbone.predict(torch.zeros(len(t), *backbone.latent_shape), t, sentence)
    handle.remove()
    return calls[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Pipelines loaded with `dtype=torch.float16`")
def test_in_half_precision_the_time_is_that_of_float32(pipe: Any) -> None:
    exact = load(pipe, torch.float32)
    t, sentence = torch.arange(exact.timesteps), exact.encode("a dog")
    wanted = given(exact, t, sentence)
    assert len(wanted["timestep"].unique()) == exact.timesteps
    for dtype in (torch.bfloat16, torch.float16):
        found = given(load(pipe, dtype), t, sentence)
        for name in ("timestep", "guidance", "time_ids", "txt_ids", "img_ids"):
            if isinstance(wanted.get(name), Tensor):
                assert torch.equal(found[name], wanted[name]), (name, dtype)


@pytest.mark.slow
def test_the_time_is_that_of_the_pipeline(pipe: Any, family: str) -> None:
    backbone, calls = load(pipe, torch.bfloat16), list[dict[str, Any]]()
    sentence, levels = backbone.encode("a dog"), list[Tensor]()
    handle = listened(backbone, calls)
    other = backbone.denoiser.register_forward_hook(lambda *_: levels.append(pipe.scheduler.timesteps))
    backbone.sample(
        sentence,
        [backbone.encode_negative("")],
        backbone.sampling_settings(
            num_inference_steps=STEPS, guidance_scale=1.0, height=tiny_families.SIDE, width=tiny_families.SIDE
        ),
        seeds=[0],
    )
    handle.remove()
    other.remove()
    theirs = torch.stack([call["timestep"].flatten()[0] for call in calls])
    if backbone.objective == "flow":  # a sampler's levels lie between those of a fit
        backbone._schedule.sigma = levels[0] / backbone.timesteps
        ours = given(backbone, torch.arange(len(levels[0])), sentence)
    else:
        ours = given(backbone, theirs.long(), sentence)
    rounded = family in ROUNDED_BY_THE_LIBRARY
    assert theirs.dtype == (torch.bfloat16 if rounded else ours["timestep"].dtype)
    assert torch.allclose(ours["timestep"].double(), theirs.double(), rtol=2**-7 if rounded else 1e-6, atol=0)
    if family == "sdxl":
        assert torch.equal(ours["time_ids"][:1], calls[0]["time_ids"][:1].float())
    if family == "flux-dev":
        assert calls[0]["guidance"].dtype == ours["guidance"].dtype == torch.float32
