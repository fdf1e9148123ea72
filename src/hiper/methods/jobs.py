"""What every fit has in common, whatever it learns: its settings, its identity for resuming, its artifact."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import torch
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone, Scheduler, prediction_entry
from hiper.images import Subject, fit_square, thumbnail_data_url
from hiper.options import Options, Spec, fit_key, versions
from hiper.seeds import resolve_seed
from hiper.training import Fitted, Identity, Recipe, Sampling, Schedule

O = TypeVar("O", bound=Options)  # noqa: E741

FP16_LOSS_SCALE = 1024.0
ACCELERATOR_WINDOW = 10
EDITING = ("strength", "guidance", "edit_steps", "scheduler")
"""Options that only an edit uses."""


@dataclass(frozen=True, kw_only=True)
class JobOptions(Options):
    """What the options of every method have; each adds a `strength`, which means its own thing."""

    square: Annotated[Literal["crop", "pad"], Spec("how a picture becomes square")] = "crop"
    seed: Annotated[int, Spec("of all randomness; -1 draws one", low=-1)] = 0
    guidance: Annotated[
        float | None, Spec("guidance when editing; none: the model's own", low=0, high=100)
    ] = None
    edit_steps: Annotated[
        int | None, Spec("denoising steps when editing; none: the model's own", low=1, high=1000)
    ] = None
    scheduler: Annotated[Scheduler | None, Spec("sampler when editing; none: the model's own")] = None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(JobOptions):
    """What the options of every method that minimises the denoising loss have."""

    steps: Annotated[int, Spec("optimisation steps", low=1, high=1_000_000)]
    batch: Annotated[int, Spec("noise levels per step", low=1, high=1024)]
    learning_rate: Annotated[float, Spec("Adam's step size", low=1e-8, high=10)]
    schedule: Annotated[Schedule, Spec("course of the learning rate: constant, or cosine down to 0")] = (
        "constant"
    )
    sampling: Annotated[Sampling, Spec("noise levels: uniform, or stratified over the batch")] = "uniform"


def settled(options: O, backbone: Backbone) -> O:
    """Fill in what was left to the model, and draw a seed where one is to be drawn."""
    own: dict[str, Any] = {
        "placement": backbone.placement,
        "initial": "guess" if backbone.tail_encoder is not None else "caption",
        "guidance": backbone.default_guidance,
        "edit_steps": backbone.default_steps,
        "scheduler": backbone.schedulers[0],
    }
    left = {name: value for name, value in own.items() if getattr(options, name, value) is None}
    left["seed"] = resolve_seed(int(options.as_mapping()["seed"]))
    return replace(options, **left)


def loss_scale(backbone: Backbone) -> float:
    """Return the factor that keeps the backbone's gradients from underflow."""
    return FP16_LOSS_SCALE if backbone.dtype == torch.float16 else 1.0


def window(backbone: Backbone) -> int:
    """Return how many steps to make between two looks at the loss."""
    return 1 if backbone.device.type == "cpu" else ACCELERATOR_WINDOW


def recipe(options: TrainingOptions, backbone: Backbone) -> Recipe:
    """Return how the options ask to minimise."""
    return Recipe(
        steps=options.steps,
        learning_rate=options.learning_rate,
        schedule=options.schedule,
        loss_scale=loss_scale(backbone),
        window=window(backbone),
    )


def fit_figures(fitted: Fitted) -> dict[str, float]:
    """Return the figures that an artifact tells of its fit."""
    return {
        "seconds": round(fitted.seconds, 3),
        "loss_before": fitted.loss_before,
        "loss_after": fitted.loss_after,
    }


def identity(
    method: str,
    backbone: Backbone,
    subject: Subject,
    options: Options,
    editing: Collection[str] = EDITING,
) -> Identity:
    """Return everything that decides what is learnt: a resumed fit must agree in all of it.

    editing: options that only an edit uses.
    """
    return fit_key(
        method,
        backbone.model_key(),
        picture=subject.sha256,
        caption=subject.caption,
        options=options,
        leaving=editing,
    )


def picture_latents(
    backbone: Backbone, subject: Subject, options: JobOptions, random: torch.Generator
) -> Tensor:
    """Return the latents [1, c, h, w] of the subject's picture at the model's native size."""
    return backbone.latents(fit_square(subject.image, backbone.resolution, how=options.square), random)


def artifact(
    method: str,
    backbone: Backbone,
    subject: Subject,
    options: Options,
    tensors: Mapping[str, Tensor],
    figures: Mapping[str, float],
    *,
    fingerprint: tuple[float, ...],
) -> Artifact:
    """Gather what was learnt and everything needed to use it again; options: as `settled` returned them."""
    values = options.as_mapping()
    return Artifact(
        method=method,
        family=backbone.family,
        backbone=backbone.id,
        revision=backbone.revision,
        fingerprint=fingerprint,
        caption=subject.caption,
        image_sha256=subject.sha256,
        seed=int(values["seed"]),
        options={name: value for name, value in values.items() if name not in EDITING},
        edit={"steps" if name == "edit_steps" else name: values[name] for name in EDITING},
        tensors=dict(tensors),
        figures=dict(figures),
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        thumbnail=thumbnail_data_url(subject.image),
        extra=prediction_entry(backbone.objective),
    )
