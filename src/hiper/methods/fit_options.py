"""Options that methods have in common, and what a fit takes from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from hiper.backbones import Backbone, Scheduler
from hiper.images import Subject, fit_square
from hiper.options import EARLIER_FIT, KEEP, Options, Spec
from hiper.seeds import resolve_seed
from hiper.training import Sampling, Schedule, TrainingConfig

O = TypeVar("O", bound=Options)  # noqa: E741

FP16_LOSS_SCALE = 1024.0
LOG_EVERY = 10
"""Steps between two checks of the loss on an accelerator, which has to be waited for."""
EDITING = ("strength", "guidance_scale", "num_inference_steps", "scheduler")
"""Options that only an edit uses."""
KEEP_SOURCE = "keep_source"
"""Likewise, of methods whose edits can keep the source."""


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """What the options of every method have; each adds a `strength`, which means its own thing."""

    earlier: ClassVar[Mapping[str, str]] = EARLIER_FIT

    square: Annotated[Literal["crop", "pad"], Spec("how a picture becomes square")] = "crop"
    seed: Annotated[int, Spec("of all randomness; -1 draws one", low=-1)] = 0
    source: Annotated[
        bool,
        Spec(
            "keep the picture's latents in the file: edits can keep what they do not change, and others can see it"
        ),
    ] = True
    guidance_scale: Annotated[
        float | None, Spec("guidance scale when editing; none: the model's own", low=0, high=100)
    ] = None
    num_inference_steps: Annotated[
        int | None, Spec("denoising steps when editing; none: the model's own", low=1, high=1000)
    ] = None
    scheduler: Annotated[Scheduler | None, Spec("sampler when editing; none: the model's own")] = None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(FitOptions):
    """What the options of every method that minimises the denoising loss have."""

    num_train_steps: Annotated[int, Spec("optimisation steps", low=1, high=1_000_000)]
    batch: Annotated[int, Spec("timesteps per step", low=1, high=1024)]
    learning_rate: Annotated[float, Spec("Adam's step size", low=1e-8, high=10)]
    schedule: Annotated[Schedule, Spec("learning-rate schedule: constant, or cosine down to 0")] = "constant"
    sampling: Annotated[Sampling, Spec("timesteps: uniform, or stratified over the batch")] = "uniform"


@dataclass(frozen=True, kw_only=True)
class KeepingOptions(TrainingOptions):
    """What the options of every method have whose edits can keep what the sentence does not change."""

    keep_source: Annotated[
        float,
        Spec("how much of the source an edit keeps: 0 draws a new picture, 1 gives it back", low=0, high=1),
    ] = KEEP


def resolve_options(options: O, backbone: Backbone) -> O:
    """Fill in what was left to the model, and draw a seed where one is to be drawn."""
    own: dict[str, Any] = {
        "placement": backbone.placement,
        "init": "guess" if backbone.tail_encoder is not None else "caption",
        "guidance_scale": backbone.default_guidance_scale,
        "num_inference_steps": backbone.default_num_inference_steps,
        "scheduler": backbone.schedulers[0],
    }
    left = {name: value for name, value in own.items() if getattr(options, name, value) is None}
    left["seed"] = resolve_seed(int(options.as_mapping()["seed"]))
    return replace(options, **left)


def loss_scale(backbone: Backbone) -> float:
    """Return the factor that keeps the backbone's gradients from underflow."""
    return FP16_LOSS_SCALE if backbone.dtype == torch.float16 else 1.0


def training_config(options: TrainingOptions, backbone: Backbone, **changes: Any) -> TrainingConfig:
    """Return how the options ask to minimise, with `changes` to it."""
    config = TrainingConfig(
        steps=options.num_train_steps,
        learning_rate=options.learning_rate,
        schedule=options.schedule,
        loss_scale=loss_scale(backbone),
        log_every=1 if backbone.device.type == "cpu" else LOG_EVERY,
    )
    return replace(config, **changes)


def picture_latents(
    backbone: Backbone, subject: Subject, options: FitOptions, random: torch.Generator
) -> Tensor:
    """Return the latents [1, c, h, w] of the subject's picture at the model's native size."""
    return backbone.latents(fit_square(subject.image, backbone.resolution, how=options.square), random)
