"""What one fit step and one sampling step cost at the sizes of SD 1.4, SDXL and FLUX.1: counted, nothing is computed.

    python -m benchmarks.cost_model [--models sd14 sdxl flux] [--out benchmarks/cost_model.json]

The denoisers are diffusers' own classes in the sizes that were published, under torch's fake tensors, which have
shapes and no numbers: no memory, no download, about a minute per model. For every way of working: FLOPs, bytes moved
and the most bytes alive at once (`hiper.analysis.counting`), and the least seconds that these take on the named GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import options, write
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from hiper.analysis import Counter, Work, counting

STEPS, PREVIEWS, PREVIEW_FORWARDS = 1000, 10, 3 * 50 * 2
"""The reference procedure: a preview every 100 steps, of 3 pictures of 50 steps, each of two forward passes."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Figures of a data sheet: FLOP/s of dense matrix products, bytes/s of memory."""

    name: str
    bfloat16: float
    float32: float
    bandwidth: float

    def seconds(self, work: Work, dtype: torch.dtype) -> dict[str, float]:
        """Least seconds by the matrix rate, and by the memory with nothing fused and with all but products fused."""
        rate = self.bfloat16 if dtype == torch.bfloat16 else self.float32
        return {
            "by_compute": work.flops / rate,
            "by_memory_unfused": work.moved / self.bandwidth,
            "by_memory_fused": work.products / self.bandwidth,
        }


H200 = Gpu(name="H200 SXM, data sheet", bfloat16=989e12, float32=67e12, bandwidth=4.8e12)
"""float32 without TF32, which is PyTorch's default for matrix products."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A published size: its denoiser, and one call of it on [batch, ...] for rows [batch, length, embed]."""

    build: Callable[[], nn.Module]
    length: int
    embed: int
    call: Callable[[Any, int, Tensor], Tensor]
    text: tuple[str, ...]
    """Names of the layers that read the token embeddings alone."""
    cross: tuple[str, ...]
    """Names of the layers in which picture meets text."""


def sd14() -> nn.Module:
    """860 M parameters; diffusers' defaults but for the width of the text."""
    unet: nn.Module = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return unet


def sdxl() -> nn.Module:
    """2.6 B parameters; unet/config.json of stabilityai/stable-diffusion-xl-base-1.0."""
    unet: nn.Module = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return unet


def flux() -> nn.Module:
    """11.9 B parameters; transformer/config.json of black-forest-labs/FLUX.1-dev."""
    transformer: nn.Module = FluxTransformer2DModel(guidance_embeds=True)
    return transformer


def call_sd(unet: Any, side: int, rows: Tensor) -> Tensor:
    """One call at `side` x `side` latent cells."""
    noisy = torch.randn(len(rows), 4, side, side, dtype=unet.dtype)
    added = None
    if unet.config.addition_embed_type:
        added = {
            "text_embeds": torch.randn(len(rows), 1280, dtype=unet.dtype),
            "time_ids": torch.randn(len(rows), 6, dtype=unet.dtype),
        }
    output: Tensor = unet(
        noisy, torch.tensor([500]), rows.to(unet.dtype), added_cond_kwargs=added, return_dict=False
    )[0]
    return output


def call_flux(transformer: Any, side: int, rows: Tensor) -> Tensor:
    """One call at `side` x `side` latent cells, four of which make a token."""
    batch, dtype, tokens = len(rows), transformer.dtype, (side // 2) ** 2
    output: Tensor = transformer(
        hidden_states=torch.randn(batch, tokens, 64, dtype=dtype),
        timestep=torch.full((batch,), 0.5, dtype=dtype),
        guidance=torch.full((batch,), 1.0),
        pooled_projections=torch.randn(batch, 768, dtype=dtype),
        encoder_hidden_states=rows.to(dtype),
        txt_ids=torch.zeros(rows.shape[1], 3),
        img_ids=torch.zeros(tokens, 3),
        return_dict=False,
    )[0]
    return output


def _sd_size(build: Callable[[], nn.Module], embed: int) -> Size:
    return Size(
        build=build,
        length=77,
        embed=embed,
        call=call_sd,
        text=("attn2.to_k", "attn2.to_v"),
        cross=("attn2",),
    )


SIZES: Mapping[str, Size] = {
    "sd14": _sd_size(sd14, embed=768),
    "sdxl": _sd_size(sdxl, embed=2048),
    "flux": Size(
        build=flux,
        length=512,
        embed=4096,
        call=call_flux,
        text=("context_embedder", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff_context"),
        cross=("attn",),
    ),
}
SIDES = {"sd14": 64, "sdxl": 128, "flux": 128}
"""Latent cells a side: pictures of 512, 1024 and 1024 pixels."""


def built(size: Size, dtype: torch.dtype, *, frozen: bool) -> nn.Module:
    """Build the denoiser; call it under fake tensors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return size.build().eval().requires_grad_(not frozen)
    finally:
        torch.set_default_dtype(before)


def fit_step(
    size: Size, model: nn.Module, side: int, batch: int, tail: int = 5, *, appended: bool = False
) -> Callable[[], None]:
    """Return forward, mean squared error and backward: the whole of a fit step but Adam on the tail."""
    learnt = torch.randn(1, tail, size.embed, requires_grad=True)
    head = torch.randn(1, size.length - (0 if appended else tail), size.embed)

    def run() -> None:
        rows = torch.cat([head, learnt], dim=1).expand(batch, -1, -1)
        predicted = size.call(model, side, rows)
        torch.autograd.backward(F.mse_loss(predicted.float(), torch.randn(predicted.shape)))

    return run


def count(work: Callable[[], object]) -> Counter:
    """Do it once and count."""
    with counting() as counter:
        work()
    return counter


def forward(size: Size, model: nn.Module, side: int, batch: int) -> Counter:
    """Count one call without a gradient."""
    with torch.no_grad():
        return count(lambda: size.call(model, side, torch.randn(batch, size.length, size.embed)))


def before_text(size: Size, model: nn.Module, side: int) -> Work:
    """Count a call up to where it first meets the text: what needs no graph, and depends on no tail."""
    seen: list[Work] = []
    first = next(part for name, part in model.named_modules() if name.rpartition(".")[2] == size.cross[0])
    with counting() as counter, torch.no_grad():
        handle = first.register_forward_pre_hook(lambda *_: seen.append(counter.work()))
        size.call(model, side, torch.randn(1, size.length, size.embed))
        handle.remove()
    return seen[0]


def share(counter: Counter, names: tuple[str, ...]) -> float:
    """Share of the flops that layers of these names have."""
    counts = counter.flops_of_modules()
    found = [count for name, count in counts.items() if name.endswith(tuple(f".{each}" for each in names))]
    return sum(found) / counts["Global"]


def row(work: Work, dtype: torch.dtype, held: int) -> dict[str, object]:
    """A line of the report; held: bytes of weights, and of their gradients where those stay."""
    return {**asdict(work), "memory": held + work.peak, "least_seconds": H200.seconds(work, dtype)}


WAYS = (
    (torch.float32, False, 1),
    (torch.float32, True, 1),
    (torch.bfloat16, True, 1),
    (torch.bfloat16, True, 4),
)
"""Number format, whether weights are frozen, and timesteps per step; the first is the reference procedure's."""


def counted(name: str) -> dict[str, Any]:
    """Count every way of working at one size."""
    size, side = SIZES[name], SIDES[name]
    report: dict[str, Any] = {}
    for dtype, frozen, batch in WAYS:
        how = f"{'frozen' if frozen else 'unfrozen'}, {str(dtype).removeprefix('torch.')}"
        print(name, how, batch, flush=True)
        model = built(size, dtype, frozen=frozen)
        weights = sum(weight.nbytes for weight in model.parameters())
        report["parameters"] = sum(weight.numel() for weight in model.parameters())
        if not frozen:  # nobody zeroes its gradients: from the second step on they are there all the time
            fit_step(size, model, side, batch)()
            weights *= 2
        work = count(fit_step(size, model, side, batch)).work()
        report[f"fit step, {how}, batch {batch}"] = row(work, dtype, weights)
        report[f"sampling step, guided, {how}"] = row(forward(size, model, side, 2).work(), dtype, weights)
    one = forward(size, model, side, 1)
    report["shares of a forward pass"] = {
        "before the first text": before_text(size, model, side).flops / one.work().flops,
        "layers that read the text alone": share(one, size.text),
        "layers in which picture meets text": share(one, size.cross),
    }
    return {**report, "reference procedure": reference(report)}


def reference(report: Mapping[str, Any]) -> dict[str, float]:
    """Where 1000 steps with previews spend, in FLOPs."""
    unfrozen, frozen = (
        report[f"fit step, {how}, float32, batch 1"]["flops"] for how in ("unfrozen", "frozen")
    )
    one = report["sampling step, guided, frozen, float32"]["flops"] / 2
    return {
        "steps": STEPS * frozen,
        "gradients of weights that nobody uses": STEPS * (unfrozen - frozen),
        "previews": PREVIEWS * PREVIEW_FORWARDS * one,
    }


def main() -> None:
    """Count and print; each model's figures are written down at once, beside those of earlier runs."""
    parser = options(__doc__, out=Path("benchmarks/cost_model.json"))
    parser.add_argument("--models", nargs="+", choices=sorted(SIZES), default=sorted(SIZES))
    arguments = parser.parse_args()
    out: Path = arguments.out
    report: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    report |= {"torch": torch.__version__, "gpu": asdict(H200)}
    for name in arguments.models:
        with FakeTensorMode():
            report[name] = counted(name)
        print(json.dumps({name: report[name]}, indent=2), flush=True)
        write(out, report)


if __name__ == "__main__":
    main()
