"""SDEdit: noise the picture, and let the model draw the new sentence from there; nothing is learnt.

Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations",
arXiv:2108.01073, algorithm 1; with the deterministic sampler of img2img pipelines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.images import Subject
from hiper.methods.base import AttachedModel
from hiper.methods.fit_options import EDITING, FitOptions, picture_latents
from hiper.methods.inversion import (
    NOTHING_MINIMISED,
    InversionMethod,
    InvertedSampler,
    check_latents,
    check_strength,
    plain_encoder,
)
from hiper.options import Spec
from hiper.seeds import generator
from hiper.training import NO_CONTROL, FitControl, ProgressEvent

LATENTS = "latents"


@final
@dataclass(frozen=True, kw_only=True)
class SdeditOptions(FitOptions):
    """How an edit draws; a fit only encodes the picture."""

    strength: Annotated[
        float, Spec("how far the picture is noised, 0 not at all, 1 to pure noise", low=0, high=1)
    ]


@final
class Sdedit(InversionMethod[SdeditOptions]):
    """The artifact is the picture's latents."""

    name: ClassVar[str] = "sdedit"
    learns: ClassVar[str] = "nothing; it keeps the picture's latents"
    paper: ClassVar[str] = "arXiv:2108.01073"
    editing: ClassVar[frozenset[str]] = frozenset(EDITING)
    options_type = SdeditOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "default": {"strength": 0.75, "guidance_scale": 3.46},
        "paper": {"strength": 0.6, "num_inference_steps": 50, "guidance_scale": 7.5},
    }

    def fit(
        self,
        backbone: Backbone,
        subject: Subject,
        options: SdeditOptions,
        control: FitControl = NO_CONTROL,
    ) -> Artifact:
        control.raise_if_stopped()
        begun = time.monotonic()
        options = self.resolve(options, backbone, subject)
        latents = picture_latents(backbone, subject, options, generator(options.seed))
        seconds = time.monotonic() - begun
        control.report(ProgressEvent(step=1, steps=1, loss=NOTHING_MINIMISED, seconds=seconds))
        return self.artifact(backbone, subject, options, {LATENTS: latents}, {"seconds": round(seconds, 3)})

    @contextmanager
    def attach(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[AttachedModel]:
        check_strength(self.name, strength)
        latents = check_latents(artifact, LATENTS, backbone)

        def start(seeds: Sequence[int], level: int, number: int) -> Tensor:
            if number == 0:
                return latents.expand(len(seeds), -1, -1, -1)
            noise = torch.cat([torch.randn(latents.shape, generator=generator(seed)) for seed in seeds])
            return backbone.add_noise(latents, noise, torch.full((len(seeds),), level)).noisy

        sampler = InvertedSampler(backbone=backbone, method=self.name, start=start)
        yield AttachedModel(encode=plain_encoder(backbone), sampler=sampler)
