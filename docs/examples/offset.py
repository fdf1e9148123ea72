"""A method of one's own: one vector, learnt by the model's own loss, is added to every text row of every sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from hiper import Artifact, Backbone, CheckpointFile, Subject
from hiper.conditioning import Conditioning
from hiper.methods import (
    Applied,
    Method,
    TrainingOptions,
    artifact,
    fit_figures,
    identity,
    picture_latents,
    recipe,
    settled,
)
from hiper.options import Spec
from hiper.seeds import generator
from hiper.training import Callback, Denoising, StopRequest, level_range, optimise

VECTOR = "offset"


@final
@dataclass(frozen=True, kw_only=True)
class OffsetOptions(TrainingOptions):
    """Steps, batch, learning rate, guidance and the like are inherited; a range is checked before any work."""

    strength: Annotated[float, Spec("factor on the vector when editing", low=-10, high=10)] = 1.0


@final
class Offset(Method[OffsetOptions]):
    """The result is one tensor [1, embed]. A method holds no state of its own."""

    name: ClassVar[str] = "offset"
    learns: ClassVar[str] = "one vector added to every text row"
    rows_only: ClassVar[bool] = True
    options_type = OffsetOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "default": {"steps": 100, "batch": 4, "learning_rate": 1e-2, "schedule": "cosine"}
    }

    def fit(
        self,
        backbone: Backbone,
        subject: Subject,
        options: OffsetOptions,
        *,
        callback: Callback | None = None,
        checkpoint: CheckpointFile | None = None,
        should_stop: StopRequest | None = None,
    ) -> Artifact:
        options = settled(options, backbone)
        random = generator(options.seed)
        caption = backbone.encode(subject.caption)
        objective = Denoising(
            backbone=backbone,
            latents=picture_latents(backbone, subject, options, random),
            conditioning=lambda learnt: shifted(caption, learnt[VECTOR]),
            batch=options.batch,
            bounds=level_range(0, 1, backbone.timesteps),
            sampling=options.sampling,
        )
        fingerprint = backbone.fingerprint()
        start = torch.zeros(1, backbone.embed, device=backbone.device, requires_grad=True)
        with backbone.fitting():  # all but the denoiser leaves memory; no weight asks for a gradient
            fitted = optimise(
                objective,
                {VECTOR: start},
                recipe(options, backbone),
                random,
                identity=identity(self.name, backbone, subject, options) if checkpoint else {},
                callback=callback,
                checkpoint=checkpoint,
                should_stop=should_stop,
            )
        figures = fit_figures(fitted)
        return artifact(
            self.name, backbone, subject, options, fitted.parameters, figures, fingerprint=fingerprint
        )

    @contextmanager
    def applied(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[Applied]:
        vector = artifact.tensors[VECTOR].to(backbone.device) * strength
        yield Applied(encode=lambda prompt: shifted(backbone.encode(prompt), vector), sample=backbone.sample)


def shifted(sentence: Conditioning, vector: Tensor) -> Conditioning:
    """Add the vector [1, embed] to every row."""
    return replace(sentence, rows=sentence.rows + vector)
