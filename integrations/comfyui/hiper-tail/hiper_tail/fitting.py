"""Fit a tail with ComfyUI's own model, text encoder and autoencoder; no weight is changed.

arXiv:2303.08767, section 3, with the timesteps and the learning rate of hiper's default preset.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from unicodedata import category

import torch
from torch import Tensor, nn

from .objective import Objective
from .placing import place_tail
from .tail import PREFIX, SCHEMA, Placement, Tail

LOSS_SCALE = 2.0**16
"""Where the factor on a float16 model's loss starts; it is halved until the gradient is finite."""


@dataclass(frozen=True)
class TrainingConfig:
    """batch: timesteps per step, one from each equal part of the range; seed: of all randomness."""

    tail: int
    steps: int
    batch: int
    learning_rate: float
    placement: Placement
    seed: int


def fit(
    objective: Objective, start: Tensor, config: TrainingConfig, callback: Callable[[int, float], None]
) -> Tensor:
    """Return the fitted token embeddings [tail, embed], float32 on the CPU.

    Args:
        objective: of the picture and its caption.
        start: the caption's own token embeddings [1, length, embed], whose last token embeddings the tail starts from.
        config: how long, how fast, from which seed.
        callback: gets step and loss after each step; may raise to stop.

    Raises:
        ValueError: the loss leaves the finite numbers, or no gradient reaches the token embeddings.
    """
    embeddings = start.detach().float().clone()
    tail = embeddings[0, -config.tail :].clone().requires_grad_()
    optimizer = torch.optim.Adam([tail], lr=config.learning_rate)
    generator = torch.Generator().manual_seed(config.seed)
    scale = LOSS_SCALE if objective.is_float16 else 1.0
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        noise = torch.randn(config.batch, *objective.shape, generator=generator)
        parts = (torch.arange(config.batch) + torch.rand(config.batch, generator=generator)) / config.batch
        t = (parts * objective.levels).long().clamp(max=objective.levels - 1)

        def loss_of_tail(noise: Tensor = noise, t: Tensor = t) -> Tensor:
            own = Tail(tail, {f"{PREFIX}family": ""})
            return objective.loss(place_tail([[embeddings, {}]], own, 1.0, config.placement)[0][0], noise, t)

        value, tail.grad, scale = _loss_and_gradient(loss_of_tail, tail, scale, objective.is_patched)
        if not math.isfinite(value) or not bool(tail.grad.isfinite().all()):
            what = "loss" if not math.isfinite(value) else "gradient"
            raise ValueError(
                f"the {what} is not finite at step {step + 1}; lower the learning rate, or load in fp32"
            )
        optimizer.step()
        callback(step + 1, value)
    return tail.detach().cpu()


def _loss_and_gradient(
    loss_of_tail: Callable[[], Tensor], tail: Tensor, scale: float, patched: bool
) -> tuple[float, Tensor, float]:
    """Return the loss, its gradient, and the scale that it took.

    Gradients of a mean over a latent are too small for float16, so that the loss is multiplied before the backward
    pass and the gradient divided after it (arXiv:1710.03740, section 3.2).
    """
    while True:
        loss, gradient = _backward(loss_of_tail, tail, scale, patched)
        if scale == 1 or not bool(loss.isfinite()) or bool(gradient.isfinite().all()):
            return float(loss), gradient / scale, scale
        scale /= 2


def _backward(
    loss_of_tail: Callable[[], Tensor], tail: Tensor, scale: float, patched: bool
) -> tuple[Tensor, Tensor]:
    # FreeU and others write into activations that the backward pass still needs: it gets a copy of those.
    kept = torch.autograd.graph.allow_mutation_on_saved_tensors() if patched else nullcontext()
    try:
        with kept:
            loss = loss_of_tail()
            (gradient,) = torch.autograd.grad(loss * scale, [tail])
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        raise ValueError(
            f"no gradient through this MODEL: {reason}; connect the MODEL from before the nodes that patch it, or"
            " start ComfyUI with --use-pytorch-cross-attention"
        ) from error
    return loss.detach(), gradient


def centre_square(image: Tensor, size: int) -> Tensor:
    """Return the first picture of [batch, height, width, channels] in [0, 1] as [1, size, size, 3]; 0: as it is."""
    picture = image[:1, :, :, :3].movedim(-1, 1).float()
    if size == 0:
        return picture.movedim(1, -1)
    side = min(picture.shape[2:])
    top, left = (picture.shape[2] - side) // 2, (picture.shape[3] - side) // 2
    cut = picture[:, :, top : top + side, left : left + side]
    scaled = nn.functional.interpolate(cut, (size, size), mode="bicubic", antialias=True)
    return scaled.clamp(0, 1).movedim(1, -1)


def header(config: TrainingConfig, family: str, caption: str, losses: tuple[float, float]) -> dict[str, str]:
    """Return the header of the file, as hiper reads it."""
    options = {
        "num_train_steps": config.steps,
        "batch": config.batch,
        "learning_rate": config.learning_rate,
        "schedule": "cosine",
        "sampling": "stratified",
        "tail": config.tail,
        "placement": config.placement,
        "seed": config.seed,
    }
    tables: dict[str, Any] = {
        "schema": SCHEMA,
        "seed": config.seed,
        "fingerprint": [],
        "options": options,
        "edit": {"strength": 0.8},  # the rest is left to the model that hiper draws with
        "figures": {"first_loss": losses[0], "last_loss": losses[1]},
        "versions": {"torch": torch.__version__},
    }
    texts = {
        "method": "hiper",
        "family": family,
        "backbone": "comfyui",
        "revision": "",
        "caption": "".join(c for c in " ".join(caption.split()) if category(c) not in ("Cc", "Cs")),
        "image_sha256": "",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    written = {**texts, **{name: json.dumps(value, sort_keys=True) for name, value in tables.items()}}
    return {f"{PREFIX}{name}": value for name, value in written.items()}
