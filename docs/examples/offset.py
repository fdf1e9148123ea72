"""A method of one's own: it learns one vector, which is added to every token embedding of every sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from hiper import Artifact, Backbone, Subject
from hiper.conditioning import Conditioning
from hiper.methods import AttachedModel, TrainedMethod, TrainingOptions, picture_latents, training_config
from hiper.options import Spec
from hiper.seeds import generator
from hiper.training import NO_CONTROL, Denoising, FitControl, TrainingTask, level_range

VECTOR = "offset"


@final
@dataclass(frozen=True, kw_only=True)
class OffsetOptions(TrainingOptions):
    """Steps, batch, learning rate, guidance and the like are inherited; a range is checked before any work."""

    strength: Annotated[float, Spec("factor on the vector when editing", low=-10, high=10)] = 1.0


@final
class Offset(TrainedMethod[OffsetOptions]):
    """Learns one tensor [1, embed]. A method holds no state of its own."""

    name: ClassVar[str] = "offset"
    learns: ClassVar[str] = "one vector added to every token embedding"
    token_embeddings_only: ClassVar[bool] = True
    fits_together: ClassVar[bool] = True
    options_type = OffsetOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "default": {"num_train_steps": 100, "batch": 4, "learning_rate": 1e-2, "schedule": "cosine"}
    }

    def prepare(
        self, backbone: Backbone, subject: Subject, options: OffsetOptions, control: FitControl = NO_CONTROL
    ) -> TrainingTask:
        random = generator(options.seed)
        caption = backbone.encode(subject.caption)
        objective = Denoising(
            backbone=backbone,
            latents=picture_latents(backbone, subject, options, random),
            conditioning=lambda parameters: shifted(caption, parameters[VECTOR]),
            batch=options.batch,
            bounds=level_range(0, 1, backbone.timesteps),
            sampling=options.sampling,
        )
        start = {VECTOR: torch.zeros(1, backbone.embed_dim, device=backbone.device, requires_grad=True)}
        config = training_config(options, backbone)
        return TrainingTask(
            objective=objective, parameters=start, config=config, generator=random, latents=objective.latents
        )

    @contextmanager
    def attach(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[AttachedModel]:
        vector = artifact.tensors[VECTOR].to(backbone.device) * strength
        yield AttachedModel(encode=lambda prompt: shifted(backbone.encode(prompt), vector))


def shifted(sentence: Conditioning, vector: Tensor) -> Conditioning:
    """Add the vector [1, embed_dim] to every token embedding."""
    return replace(sentence, token_embeddings=sentence.token_embeddings + vector)
