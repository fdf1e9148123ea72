"""One optimisation loop for all stages: seeded by step, killable at any moment, resumed from its last checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Loss = Callable[[int, torch.Generator], Tensor]


def train(
    name: str,
    model: nn.Module,
    loss: Loss,
    *,
    steps: int,
    rate: float,
    seed: int,
    folder: Path,
    ema: float = 0.999,
    weight_decay: float = 0.01,
    every_seconds: float = 60.0,
) -> None:
    """Train `model` in place and leave the averaged weights in it.

    AdamW, 2 % linear warm-up, cosine decay to zero, gradient norm clipped at 1, exponential moving average `ema`.
    `loss(step, generator)` returns a scalar; its generator depends on seed and step only, so a resumed run continues
    with the numbers an undisturbed one would have drawn. The checkpoint is ``folder/name.checkpoint.safetensors``.
    """
    path = folder / f"{name}.checkpoint.safetensors"
    parameters = dict(model.named_parameters())
    average = {key: value.detach().clone() for key, value in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=weight_decay, fused=True)
    start = _restore(path, parameters, average, optimizer) if path.exists() else 0
    began = saved = shown = time.monotonic()
    running = math.nan
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(step, steps)
        value = loss(step, torch.Generator().manual_seed(seed * 1_000_003 + step))
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in parameters.values()], 1 - decay)
        now = time.monotonic()
        if now - shown > 10 or step + 1 == steps:
            running = value.item() if math.isnan(running) else 0.8 * running + 0.2 * value.item()
            left = (now - began) / (step + 1 - start) * (steps - step - 1)
            print(
                f"{name}: step {step + 1}/{steps}, loss {running:.4f}, {left / 60:.1f} min left", flush=True
            )
            shown = now
        if now - saved > every_seconds or step + 1 == steps:
            _save(path, step + 1, parameters, average, optimizer)
            saved = now
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(average[key])


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 50)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _save(
    path: Path,
    step: int,
    parameters: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {"step": torch.tensor(step)}
    for key, parameter in parameters.items():
        tensors[f"parameter.{key}"] = parameter.detach().contiguous()
        tensors[f"average.{key}"] = average[key].contiguous()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{key}"] = optimizer.state[parameter][moment].contiguous()
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)


def _restore(
    path: Path,
    parameters: dict[str, nn.Parameter],
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    tensors = load_file(path)
    step = int(tensors["step"])
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter.{key}"])
            average[key].copy_(tensors[f"average.{key}"])
            moments = {
                m: tensors[f"{m}.{key}"].to(parameter.device).clone() for m in ("exp_avg", "exp_avg_sq")
            }
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                **moments,
            }
    return step
