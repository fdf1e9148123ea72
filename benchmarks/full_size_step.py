"""One fit step at the full size of Stable Diffusion 1.4 (random weights, 512 x 512), frozen against unfrozen.

    python benchmarks/full_size_step.py [--steps 3] [--dtypes float32 bfloat16] [--out benchmarks/full_size_step.json]

The unfrozen step is what the method's reference procedure does: the denoiser's weights ask for gradients that nobody
uses. Both run in one process, in turn, so that the ratio means something; time and memory depend on shapes alone, so
random weights serve. Needs about 14 GB of memory and no download.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from hiper.analysis import counting

ROWS, EMBED, TAIL = 77, 768, 5


def build(dtype: torch.dtype) -> UNet2DConditionModel:
    """SD 1.4's denoiser: 860 M parameters; diffusers' defaults but for the width of the text."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=EMBED, attention_head_dim=8).eval()
    finally:
        torch.set_default_dtype(before)


def step_forward(unet: UNet2DConditionModel, tail: Tensor, head: Tensor, noisy: Tensor) -> Tensor:
    """One call of the denoiser."""
    rows = torch.cat([head, tail], dim=1)
    predicted: Tensor = unet(noisy, torch.tensor([500]), rows.to(unet.dtype), return_dict=False)[0]
    return predicted


def step(unet: UNet2DConditionModel, tail: Tensor, head: Tensor, noisy: Tensor, target: Tensor) -> None:
    """Forward, mean squared error, backward: the whole of a fit step but Adam on 3840 numbers."""
    predicted = step_forward(unet, tail, head, noisy)
    torch.autograd.backward(F.mse_loss(predicted.float(), target))


def measure(dtype: torch.dtype, steps: int, *, previews: bool = False) -> dict[str, float]:
    """Median seconds of a step, frozen and unfrozen alternating, after one warm-up of each, which is counted.

    previews: also time a call without a gradient, of which the reference procedure's previews consist.
    """
    unet = build(dtype)
    tail = torch.randn(1, TAIL, EMBED, requires_grad=True)
    head = torch.randn(1, ROWS - TAIL, EMBED)
    noisy, target = torch.randn(1, 4, 64, 64, dtype=dtype), torch.randn(1, 4, 64, 64)
    weights = sum(weight.nbytes for weight in unet.parameters())
    seconds: dict[str, list[float]] = {"frozen": [], "unfrozen": [], "forward": []}
    found: dict[str, float] = {}
    for round_number in range(steps + 1):
        for how in ("frozen", "unfrozen"):
            unet.requires_grad_(how == "unfrozen")
            begun = time.perf_counter()
            if round_number == 0:
                with counting() as counter:
                    step(unet, tail, head, noisy, target)
                work = counter.work()
                found[f"{how}_tflop"] = round(work.flops / 1e12, 3)
                found[f"{how}_memory_gb"] = round((weights + work.peak) / 1e9, 2)
            else:
                step(unet, tail, head, noisy, target)
                seconds[how].append(time.perf_counter() - begun)
            unet.zero_grad(set_to_none=True)
            tail.grad = None
        if previews and round_number:
            begun = time.perf_counter()
            with torch.no_grad():
                step_forward(unet, tail, head, noisy)
            seconds["forward"].append(time.perf_counter() - begun)
    medians = {
        f"{how}_seconds": round(statistics.median(every), 3) for how, every in seconds.items() if every
    }
    return {**medians, **found}


def main() -> None:
    """Measure each dtype and print ratios against the unfrozen float32 step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report: dict[str, object] = {
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    base = 0.0
    for name in arguments.dtypes:
        row = measure(getattr(torch, name), arguments.steps)
        base = base or row["unfrozen_seconds"]
        row["ratio_to_first_unfrozen"] = round(row["frozen_seconds"] / base, 3)
        row["ratio_to_own_unfrozen"] = round(row["frozen_seconds"] / row["unfrozen_seconds"], 3)
        report[name] = row
        print(name, row, flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
