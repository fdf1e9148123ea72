"""A GPU that is not there: devices and dtypes that may not meet, waits of the processor, what stays there.

Every family in miniature, with real numbers, on `benchmarks.fake_gpu`; nothing here is skipped where there is no GPU.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from benchmarks.fake_gpu import Kernels, Mismatch, fake_gpu
from benchmarks.fake_gpu.methods import CAPTION, FAMILIES, GPU, load, possible, subject, tried
from torch import nn

from hiper.backbones.offloading import Offloaded
from hiper.methods import HiPer
from hiper.training import Adam

VARIANTS = (
    ("sd1", "sd2"),
    ("flux-dev", "flux-schnell"),
    ("klein", "klein-base"),
    *((name, name) for name in ("sdxl", "sd3", "pixart", "sana", "lumina2", "qwen-image", "z-image")),
)
"""The ten families, by two of their models where there are two."""
WAITS = {
    "lumina2": {
        "tolist in diffusers.models.transformers.transformer_lumina2.Lumina2RotaryPosEmbed.forward": 1
    }
}
"""How often the processor waits for the GPU in a step of a fit, where it does: here it counts the rows of a mask."""


@pytest.fixture
def gpu() -> Iterator[Kernels]:
    with fake_gpu() as kernels:
        yield kernels


def devices(module: nn.Module) -> set[str]:
    return {weight.device.type for weight in module.parameters()}


def state(backbone: Any) -> list[Any]:
    """Return the dtype of every weight, and its device where that stays the same."""
    parts = backbone._modules().values()
    tensors = [each for part in parts for each in (*part.parameters(), *part.buffers())]
    return [(each.dtype, None if backbone.takes_turns else each.device) for each in tensors]


# the GPU itself


def test_what_a_gpu_refuses_is_refused(gpu: Kernels) -> None:
    here, there = torch.ones(2, 2), torch.ones(2, 2, device="cuda")
    refused: tuple[Callable[[], object], ...] = (
        lambda: here + there,
        lambda: F.linear(there, here),
        lambda: torch.cat([here, there]),
        lambda: here * there.sum(),
        lambda: torch.stack([here.sum(), there.sum()]),
        lambda: torch.randn(2, device="cuda", generator=torch.Generator()),
        lambda: there.normal_(generator=torch.Generator()),
        lambda: here[torch.zeros(1, dtype=torch.long, device="cuda")],
        lambda: F.layer_norm(there.bfloat16(), (2,), torch.ones(2, device="cuda")),
    )
    for call in refused:
        with pytest.raises(Mismatch):
            call()
    with pytest.raises(TypeError):
        there.numpy()
    assert (there * torch.tensor(3.0)).device == GPU  # a single number may come from the CPU


def test_waits_and_numbers_are_seen(gpu: Kernels) -> None:
    x = torch.tensor([1.0, -2.0]).pin_memory().to("cuda", non_blocking=True)
    assert not gpu.syncs
    assert x.square().sum().item() == 5.0
    assert x[x > 0].tolist() == [1.0]
    torch.tensor([1.0], device="cuda")
    torch.ones(3, device="cuda")
    assert sorted(what.split()[0] for what in gpu.syncs.elements()) == [
        "_local_scalar_dense",
        "copy",
        "nonzero",
        "tolist",
    ]
    assert sum(gpu.built.values()) == 2


def test_a_gradient_is_that_of_the_cpu() -> None:
    def gradient(device: str) -> Any:
        weight = torch.linspace(-1, 1, 12).view(1, 3, 4).to(device).requires_grad_()
        F.scaled_dot_product_attention(weight, 2 * weight, 3 * weight).square().sum().backward()  # type: ignore[no-untyped-call]
        return weight.grad.tolist()  # type: ignore[union-attr]

    with fake_gpu():
        found = gradient("cuda")
    assert found == gradient("cpu")


def test_a_large_tensor_has_a_shape_and_no_memory() -> None:
    with fake_gpu(large=1000) as gpu:
        layer = nn.Linear(10_000, 1_000_000, device="cuda", dtype=torch.bfloat16)
        x = torch.ones(10_000, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        layer(x).float().sum().backward()
        assert (x.grad.shape, x.grad.device, gpu.kernels > 3) == ((10_000,), GPU, True)  # type: ignore[union-attr]


# hiper on it


@pytest.mark.filterwarnings("ignore:caption")  # random places may be those of words
@pytest.mark.parametrize(
    "family",
    [family if family == "sd1" else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES],
)
def test_a_step_of_a_fit_waits_for_nothing_and_builds_nothing(gpu: Kernels, family: str) -> None:
    backbone = load(family)
    method = HiPer()
    placement = "random" if backbone.placement == "replace" else "append"
    options = method.options("published", num_train_steps=3, placement=placement, init="caption")
    task = method.prepare(backbone, subject(), method.resolve(options, backbone, subject()))
    adam = Adam(task.parameters, 1e-3)
    with backbone.training_mode():
        for number in range(3):
            if number == 1:  # what is the same for all steps is there after the first one
                gpu.clear()
            task.objective.loss(task.parameters, task.generator).backward()  # type: ignore[no-untyped-call]
            adam.update(1.0)
        kernels, syncs, built = gpu.kernels, gpu.syncs.copy(), gpu.built.copy()
    assert kernels > 100
    assert syncs == Counter({where: 2 * count for where, count in WAITS.get(family, {}).items()})
    assert not [where for where in built if where.startswith("hiper.")]
    assert task.parameters["tail"].isfinite().all()


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:the fit did not lower", "ignore:caption", "ignore:.*upcast_vae:FutureWarning"
)
@pytest.mark.parametrize("variants", VARIANTS, ids=lambda variants: variants[0])
def test_every_method_fits_and_draws_in_half_precision(variants: tuple[str, str]) -> None:
    """A family meets every dtype, way of memory and method; `benchmarks.fake_gpu.methods` tries the product."""
    number, done = VARIANTS.index(variants), set[str]()
    dtypes = (torch.bfloat16, torch.float16)[:: 1 if number % 2 else -1]
    for family, memory, dtype in zip(variants, ("balanced", "low"), dtypes, strict=True):
        with fake_gpu():
            backbone = load(family, memory, dtype)
            before, left = state(backbone), [name for name in possible(backbone) if name not in done]
            if memory == "balanced":  # half of them; textual inversion is possible here alone
                left = [*left[number // 2 % 2 :: 2], *left[-1:]]
            for method in dict.fromkeys(left):
                artifact, image = tried(backbone, method)
                assert image.size == (backbone.resolution,) * 2
                assert all(
                    each.device.type == "cpu" and each.isfinite().all() for each in artifact.tensors.values()
                )
            assert state(backbone) == before
        done.update(left)
    assert len(done) > 5


@pytest.mark.parametrize("family", ["sd1", pytest.param("flux-schnell", marks=pytest.mark.slow)])
def test_a_dropped_model_leaves_the_gpu_as_it_is(gpu: Kernels, family: str) -> None:
    backbone = load(family)
    backbone.encode(CAPTION)
    parts = backbone._modules()
    encoders = {name for name in parts if name.startswith("text_encoder")}
    on_gpu = {name for name, part in parts.items() if devices(part) == {"cuda"}}
    assert on_gpu == encoders
    entered = backbone.training_mode()
    entered.__enter__()
    before = {name: devices(part) for name, part in parts.items()}
    assert before[backbone.denoiser_name] == {"cuda"}
    assert all(places == {"cpu"} for name, places in before.items() if name != backbone.denoiser_name)
    gpu.clear()
    del backbone, entered
    gc.collect()
    assert {name: devices(part) for name, part in parts.items()} == before
    assert not gpu.syncs


@pytest.mark.slow
def test_an_exception_brings_back_what_a_fit_had_offloaded(gpu: Kernels) -> None:
    backbone = load("sd1", memory="balanced")
    seen: list[set[str]] = []

    def fail() -> None:
        with backbone.training_mode():
            seen.append(devices(backbone._pipe.vae))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [{"cpu"}]
    assert {place for part in backbone._modules().values() for place in devices(part)} == {"cuda"}


def test_where_memory_is_unified_weights_wait_on_the_disk(
    gpu: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append(True))
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before, mps = [weight.tolist() for weight in module.parameters()], torch.device("mps", 0)
    with Offloaded([module], mps):
        assert sum(weight.untyped_storage().nbytes() for weight in module.parameters()) == 0
        assert emptied == [True]
    assert {tensor.device for tensor in (*module.parameters(), *module.buffers())} == {mps}
    assert [weight.tolist() for weight in module.parameters()] == before
