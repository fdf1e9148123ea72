"""Fit a tail with ComfyUI's own model, text encoder and picture encoder; no weight is changed.

arXiv:2303.08767, section 3, with the noise levels and the learning rate of hiper's default preset.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from .tail import FAMILIES, PREFIX, SCHEMA, Placement, Tail, place_tail


@dataclass(frozen=True)
class Recipe:
    """batch: noise levels per step, one from each equal part of the range; seed: of all randomness."""

    rows: int
    steps: int
    batch: int
    learning_rate: float
    placement: Placement
    seed: int


class Objective:
    """The error of the denoiser on one picture, whatever it predicts.

    base: ComfyUI's model (comfy.model_base.BaseModel); latent: [1, c, h, w] in the model's scale, on its device
    conditioning: of the caption; size: (width, height) in pixels, which some models are told
    """

    def __init__(
        self,
        base: Any,
        latent: Tensor,
        conditioning: list[Any],
        size: tuple[int, int],
        options: dict[str, Any],
    ) -> None:
        self._base, self._latent, self._options = base, latent, options
        self.shape = tuple(latent.shape[1:])
        self._more = dict(conditioning[1])
        self._size = size

    @property
    def levels(self) -> int:
        """Number of noise levels; 0 is the cleanest."""
        return len(self._base.model_sampling.sigmas)

    def error(self, rows: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of the denoiser's own output; noise: [batch, c, h, w]; t: [batch].

        A denoised picture is a x + b o for the noisy x and the output o, so that its error over b is the output's.
        """
        sampling, device = self._base.model_sampling, self._latent.device
        sigma = sampling.sigma(t.to(device)).clone()
        clean = self._latent.expand(len(t), -1, -1, -1)
        noisy = sampling.noise_scaling(sigma.view(-1, 1, 1, 1), noise.to(device), clean, False)
        told = {name: self._spread(value, len(t)) for name, value in self._told(rows, noisy).items()}
        options = {**self._options, "cond_or_uncond": [0] * len(t), "sigmas": sigma}
        denoised = self._base.apply_model(noisy, sigma, transformer_options=options, **told)
        zero = torch.zeros_like(noisy)
        b = sampling.calculate_denoised(sigma, torch.ones_like(noisy), zero)
        error: Tensor = ((denoised - clean) / b).square().mean()
        return error

    def _told(self, rows: Tensor, noisy: Tensor) -> dict[str, Any]:
        """What the model makes of a conditioning: text rows, and for SDXL a vector of pooled text and sizes."""
        width, height = self._size
        more = {"width": width, "height": height, **self._more, "cross_attn": rows}
        found = self._base.extra_conds(**more, noise=noisy, device=noisy.device)
        return {name: each.cond for name, each in found.items()}

    @staticmethod
    def _spread(value: Any, batch: int) -> Any:
        one = isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1
        return value.expand(batch, *value.shape[1:]) if one else value


def fit(objective: Objective, start: list[Any], recipe: Recipe, tick: Callable[[int, float], None]) -> Tensor:
    """Return the fitted rows [tail, embed], float32 on the CPU; tick: told step and loss, may raise to stop.

    start: the caption's own conditioning, whose last rows the tail starts from. ValueError when the loss leaves the
    finite numbers.
    """
    rows = start[0].detach().float().clone()
    tail = rows[0, -recipe.rows :].clone().requires_grad_()
    optimiser = torch.optim.Adam([tail], lr=recipe.learning_rate)
    random = torch.Generator().manual_seed(recipe.seed)
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        noise = torch.randn(recipe.batch, *objective.shape, generator=random)
        parts = (torch.arange(recipe.batch) + torch.rand(recipe.batch, generator=random)) / recipe.batch
        t = (parts * objective.levels).long().clamp(max=objective.levels - 1)
        placed = place_tail([[rows, {}]], Tail(tail, {f"{PREFIX}family": ""}), 1.0, recipe.placement)
        loss = objective.error(placed[0][0], noise, t)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(
                f"the loss is {value} at step {step + 1}; lower the learning rate, or load in fp32"
            )
        tick(step + 1, value)
    fitted: Tensor = tail.detach().cpu()
    return fitted


@contextmanager
def trainable(model: nn.Module) -> Iterator[None]:
    """Ready a model for gradients through it: ComfyUI loads and runs under inference mode, whose tensors take none.

    Tensors made there are replaced by ordinary ones of the same values. ComfyUI has frozen its weights already.
    """
    with torch.inference_mode(False), torch.enable_grad():
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.is_inference():
                    setattr(module, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
            for name, buffer in list(module.named_buffers(recurse=False)):
                if buffer.is_inference():
                    setattr(module, name, buffer.clone())
        yield


def ordinary(conditioning: list[list[Any]]) -> list[list[Any]]:
    """Return a copy of a conditioning whose tensors may take part in gradients."""
    return [
        [
            rows.detach().clone(),
            {
                name: value.detach().clone() if isinstance(value, Tensor) else value
                for name, value in more.items()
            },
        ]
        for rows, more in conditioning
    ]


def square(image: Tensor, size: int) -> Tensor:
    """Return the first picture of [batch, height, width, channels] in [0, 1] as [1, size, size, 3]; 0: as it is."""
    picture = image[:1, :, :, :3].movedim(-1, 1).float()
    if size == 0:
        return picture.movedim(1, -1)
    side = min(picture.shape[2:])
    top, left = (picture.shape[2] - side) // 2, (picture.shape[3] - side) // 2
    cut = picture[:, :, top : top + side, left : left + side]
    scaled = nn.functional.interpolate(cut, (size, size), mode="bicubic", antialias=True)
    return scaled.clamp(0, 1).movedim(1, -1)


def header(recipe: Recipe, embed: int, caption: str, losses: tuple[float, float]) -> dict[str, str]:
    """Return the header of the file, as hiper reads it; ValueError for a model whose family it does not know."""
    if embed not in FAMILIES:
        known = ", ".join(f"{family} ({width})" for width, family in FAMILIES.items())
        raise ValueError(f"the text rows have {embed} numbers; tails are fitted here for {known}")
    options = {
        "steps": recipe.steps,
        "batch": recipe.batch,
        "learning_rate": recipe.learning_rate,
        "schedule": "cosine",
        "sampling": "stratified",
        "tail": recipe.rows,
        "placement": recipe.placement,
        "seed": recipe.seed,
    }
    tables = {
        "schema": SCHEMA,
        "seed": recipe.seed,
        "fingerprint": [],
        "options": options,
        "edit": {"strength": 0.8, "guidance": 7.5, "steps": 50, "scheduler": "ddim"},
        "figures": {"first_loss": losses[0], "last_loss": losses[1]},
        "versions": {"torch": torch.__version__},
    }
    texts = {
        "method": "hiper",
        "family": FAMILIES[embed],
        "backbone": "comfyui",
        "revision": "",
        "caption": " ".join(caption.split()),
        "image_sha256": "",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    written = {**texts, **{name: json.dumps(value, sort_keys=True) for name, value in tables.items()}}
    return {f"{PREFIX}{name}": value for name, value in written.items()}
