"""DDIM inversion: find the noise that the picture comes from, and draw the new sentence from that noise.

Song, Meng, Ermon, "Denoising Diffusion Implicit Models", arXiv:2010.02502, section 4.3; Euler's steps the other
way round for flows.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.errors import HiperWarning
from hiper.images import Subject
from hiper.methods.base import AttachedModel
from hiper.methods.fit_options import FitOptions, picture_latents
from hiper.methods.inversion import (
    NOTHING_MINIMISED,
    InversionMethod,
    InvertedSampler,
    Negative,
    check_latents,
    check_strength,
    ddim_invert,
    plain_encoder,
)
from hiper.options import Spec
from hiper.seeds import generator
from hiper.training import NO_CONTROL, FitControl, ProgressEvent

TRAJECTORY = "trajectory"


@final
@dataclass(frozen=True, kw_only=True)
class DdimInversionOptions(FitOptions):
    """How an edit draws; the inversion takes as many steps (`num_inference_steps`) as it will."""

    strength: Annotated[
        float, Spec("where on the path to noise an edit begins, 0 picture, 1 noise", low=0, high=1)
    ]


@final
class DdimInversion(InversionMethod[DdimInversionOptions]):
    """The artifact is the path: latents [steps + 1, c, h, w] from the picture up to noise, led by the caption."""

    name: ClassVar[str] = "ddim-inversion"
    learns: ClassVar[str] = "the picture's path to noise"
    paper: ClassVar[str] = "arXiv:2010.02502"
    editing: ClassVar[frozenset[str]] = frozenset({"strength", "guidance_scale", "scheduler"})
    options_type = DdimInversionOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "default": {"strength": 0.8},
        "paper": {"strength": 1.0, "num_inference_steps": 50, "guidance_scale": 7.5},
    }

    def fit(
        self,
        backbone: Backbone,
        subject: Subject,
        options: DdimInversionOptions,
        control: FitControl = NO_CONTROL,
    ) -> Artifact:
        begun = time.monotonic()
        options = self.resolve(options, backbone, subject)
        path = inverted(backbone, subject, options, begun, control)
        figures = {"seconds": round(time.monotonic() - begun, 3)}
        return self.artifact(backbone, subject, options, {TRAJECTORY: path}, figures)

    @contextmanager
    def attach(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[AttachedModel]:
        descent = descent_from(backbone, artifact, strength)
        yield AttachedModel(encode=plain_encoder(backbone), sampler=descent)


def inverted(
    backbone: Backbone, subject: Subject, options: FitOptions, begun: float, control: FitControl
) -> Tensor:
    """Return the picture's path [steps + 1, c, h, w] to noise; `begun`: when the fit did, by the monotonic clock."""
    steps = options.num_inference_steps
    assert steps is not None
    path = [picture_latents(backbone, subject, options, generator(options.seed))]
    conditioning = backbone.encode(subject.caption)
    with backbone.training_mode():
        for step, latents in enumerate(ddim_invert(backbone, path[0], conditioning, steps), start=1):
            path.append(latents)
            seconds = time.monotonic() - begun
            control.report(ProgressEvent(step=step, steps=steps, loss=NOTHING_MINIMISED, seconds=seconds))
            control.raise_if_stopped()
    return torch.cat(path)


def descent_from(
    backbone: Backbone, artifact: Artifact, strength: float, negative: Negative | None = None
) -> InvertedSampler:
    """Draw from the path that the artifact holds; whatever the seed, the picture is the same."""
    check_strength(artifact.method, strength)
    path = check_latents(artifact, TRAJECTORY, backbone)

    def start(seeds: Sequence[int], level: int, number: int) -> Tensor:
        if len(seeds) > 1:
            warnings.warn(
                f"method {artifact.method} draws the same picture for every seed; one seed is enough",
                HiperWarning,
                stacklevel=5,
            )
        return path[number : number + 1]

    return InvertedSampler(
        backbone=backbone,
        method=artifact.method,
        start=start,
        num_inference_steps=len(path) - 1,
        negative=negative,
    )
