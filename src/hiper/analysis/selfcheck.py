"""A check of one model in a minute: does a tail fit, does the model respond to it, what does it cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from hiper.analysis.sensitivity import STEPS as DRAWING_STEPS
from hiper.analysis.sensitivity import TAIL, Sensitivity, sensitivity
from hiper.backbones import Backbone
from hiper.images import Subject
from hiper.methods import fit

STEPS, PICTURES = 20, 2

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """The result of a check.

    Attributes:
        backbone: The model's name.
        revision: Of a model from the Hub.
        family: Of the model.
        max_length: Token embeddings of a prompt.
        embed: Their width.
        placement: Where the tail went.
        objective: What the model predicts.
        resolution: Its native side in pixels.
        device: That computed.
        dtype: Of the weights.
        steps: Of the fit.
        loss_before: On fixed pairs of noise and timestep; lower is better.
        loss_after: The same, after `steps` steps.
        sensitivity: See `Sensitivity`.
        seconds_per_step: Of the fit.
        seconds_per_picture: At `picture_steps` denoising steps.
        picture_steps: Of a picture.
        peak_memory_bytes: On cuda of the device, elsewhere of the whole process, loading included.
        versions: Of the libraries.
    """

    backbone: str
    revision: str
    family: str
    max_length: int
    embed: int
    placement: str
    objective: str
    resolution: int
    device: str
    dtype: str
    steps: int
    loss_before: float
    loss_after: float
    sensitivity: Sensitivity
    seconds_per_step: float
    seconds_per_picture: float
    picture_steps: int
    peak_memory_bytes: int
    versions: dict[str, str]

    def as_record(self) -> dict[str, object]:
        """Return all of it, ready for JSON."""
        return {**asdict(self), "sensitivity": {**asdict(self.sensitivity), "ratio": self.sensitivity.ratio}}


def selfcheck(
    backbone: Backbone,
    subject: Subject,
    *,
    steps: int = STEPS,
    pictures: int = PICTURES,
    progress: Progress = lambda *_: None,
) -> SelfCheck:
    """Fit a tail of 5 tokens for a few steps, and draw pictures with and without other last tokens.

    Errors and warnings are those of `fit`.

    Args:
        backbone: The model.
        subject: To fit.
        steps: Of the fit, 1 or more.
        pictures: 2 or more, each drawn twice.
        progress: Called after every step.
    """
    artifact = fit(
        backbone,
        subject,
        num_train_steps=steps,
        tail=TAIL,
        callback=lambda record: progress("fitting", record.step, record.steps),
    )
    progress("drawing", 0, 0)
    began = time.monotonic()
    found = sensitivity(backbone, pictures=pictures)
    drawing, device = time.monotonic() - began, backbone.device
    return SelfCheck(
        backbone=backbone.id,
        revision=backbone.revision,
        family=backbone.family,
        max_length=backbone.max_length,
        embed=backbone.embed_dim,
        placement=str(artifact.options["placement"]),
        objective=backbone.objective,
        resolution=backbone.resolution,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        dtype=str(backbone.dtype).removeprefix("torch."),
        steps=steps,
        loss_before=artifact.figures["loss_before"],
        loss_after=artifact.figures["loss_after"],
        sensitivity=found,
        seconds_per_step=artifact.figures["seconds"] / steps,
        seconds_per_picture=drawing / (2 * pictures),
        picture_steps=min(backbone.default_num_inference_steps, DRAWING_STEPS),
        peak_memory_bytes=peak_memory(device),
        versions=dict(artifact.versions),
    )


def peak_memory(device: torch.device) -> int:
    """Return the most bytes so far: on cuda of the device, elsewhere of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        import psutil  # accelerate brings it

        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere else
