"""One optimisation loop for all stages: seeded by step, killable at any moment, resumed from its last checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Loss = Callable[[int, torch.Generator], Tensor]

MATRIX = 16
"""Least number of channels in and out for which a weight counts as a matrix inside the network."""


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

    Muon for the matrices inside, AdamW for the rest (see `_Optimizers`), 2 % linear warm-up, cosine decay to zero,
    gradient norm clipped at 1, exponential moving average `ema`.
    `loss(step, generator)` returns a scalar; its generator depends on seed and step only, so a resumed run continues
    with the numbers an undisturbed one would have drawn. The checkpoint is ``folder/name.checkpoint.safetensors``.
    """
    path = folder / f"{name}.checkpoint.safetensors"
    parameters = dict(model.named_parameters())
    average = {key: value.detach().clone() for key, value in parameters.items()}
    optimizers = _Optimizers(model, rate, weight_decay)
    start = _restore(path, parameters, average, optimizers) if path.exists() else 0
    began = saved = shown = time.monotonic()
    running = math.nan
    for step in range(start, steps):
        value = loss(step, torch.Generator().manual_seed(seed * 1_000_003 + step))
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizers.step(rate * _schedule(step, steps))
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
            _save(path, step + 1, parameters, average, optimizers)
            saved = now
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(average[key])


def mixed_precision(device: torch.device) -> torch.autocast:
    """Bfloat16 where the device has instructions for it: a CPU without them takes three to twenty times as long."""
    there = torch.cpu.get_capabilities()
    fast = device.type != "cpu" or there.get("avx512_bf16") or there.get("amx_bf16")
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(fast))


class _Optimizers:
    """Muon (torch.optim.Muon) for weights between two layers, AdamW for all others.

    Muon takes two-dimensional weights only, so that a convolution's is seen as [out, in * height * width]: a view
    of the same memory. Its steps are scaled to AdamW's, and one learning rate serves both.
    """

    def __init__(self, model: nn.Module, rate: float, weight_decay: float) -> None:
        self._parameters = dict(model.named_parameters())
        tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
        self._views = {
            name: nn.Parameter(weight.detach().flatten(1))
            for name, weight in self._parameters.items()
            if weight.ndim >= 2 and min(weight.shape[:2]) >= MATRIX and id(weight) not in tables
        }
        others = [weight for name, weight in self._parameters.items() if name not in self._views]
        self._adam = torch.optim.AdamW(others, lr=rate, weight_decay=weight_decay, fused=True)
        self._all: list[torch.optim.Optimizer] = [self._adam]
        if self._views:
            self._all.append(
                torch.optim.Muon(
                    self._views.values(), lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
                )
            )

    def step(self, rate: float) -> None:
        """Apply the gradients at this learning rate, and clear them."""
        for name, view in self._views.items():
            gradient = self._parameters[name].grad
            view.grad = None if gradient is None else gradient.flatten(1)
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        for weight in self._parameters.values():
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return every tensor of both states by parameter and name."""
        return {
            f"{field}.{name}": value.contiguous()
            for name, weight, optimizer in self._owners()
            for field, value in optimizer.state[weight].items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` returned."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            field, _, name = key.partition(".")
            found.setdefault(name, {})[field] = value
        for name, weight, optimizer in self._owners():
            optimizer.state[weight] = {
                field: value.to(weight.device).clone() for field, value in found[name].items()
            }

    def _owners(self) -> Iterator[tuple[str, Tensor, torch.optim.Optimizer]]:
        for name, weight in self._parameters.items():
            view = self._views.get(name)
            yield (name, weight, self._adam) if view is None else (name, view, self._all[1])


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 50)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _save(
    path: Path,
    step: int,
    parameters: Mapping[str, nn.Parameter],
    average: Mapping[str, Tensor],
    optimizers: _Optimizers,
) -> None:
    tensors = {"done": torch.tensor(step)}
    for key, parameter in parameters.items():
        tensors[f"parameter.{key}"] = parameter.detach().contiguous()
        tensors[f"average.{key}"] = average[key].contiguous()
    partial = path.with_suffix(".partial")
    save_file(tensors | {f"state.{key}": value for key, value in optimizers.state().items()}, partial)
    partial.replace(path)


def _restore(
    path: Path,
    parameters: Mapping[str, nn.Parameter],
    average: Mapping[str, Tensor],
    optimizers: _Optimizers,
) -> int:
    tensors = load_file(path)
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter.{key}"])
            average[key].copy_(tensors[f"average.{key}"])
    optimizers.restore(
        {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    )
    return int(tensors["done"])
