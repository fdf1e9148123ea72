"""DreamBooth with LoRA: low-rank layers beside the denoiser's attention learn what a rare word means.

Ruiz et al., arXiv:2208.12242, with Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models",
arXiv:2106.09685, section 4, in the place of full fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.errors import ArtifactError
from hiper.methods.base import AttachedModel
from hiper.methods.identifiers import IdentifierMethod, IdentifierOptions, identifying
from hiper.methods.weights import of_denoiser
from hiper.options import Spec
from hiper.training import TrainingTask


@final
@dataclass(frozen=True, kw_only=True)
class DreamboothLoraOptions(IdentifierOptions):
    """How the layers are trained, and what an edit does with them by default."""

    rank: Annotated[int, Spec("rank of the layers", low=1, high=1024)] = 4
    strength: Annotated[float, Spec("factor on the layers, 0: the plain model", low=-10, high=10)] = 1.0


@final
class DreamboothLora(IdentifierMethod[DreamboothLoraOptions]):
    """The result is two tensors [rank, in], [out, rank] beside each projection of attention."""

    name: ClassVar[str] = "dreambooth-lora"
    learns: ClassVar[str] = "low-rank layers beside the denoiser's attention"
    paper: ClassVar[str] = "arXiv:2106.09685"
    requires: ClassVar[frozenset[str]] = frozenset({"token_embeddings", "lora"})
    options_type = DreamboothLoraOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "default": {
            "num_train_steps": 50,
            "batch": 4,
            "learning_rate": 3.3e-3,
            "rank": 8,
            "schedule": "cosine",
            "sampling": "stratified",
        },
        # diffusers' example
        "paper": {
            "keep_source": 0.0,
            "num_train_steps": 500,
            "batch": 1,
            "learning_rate": 1e-4,
            "guidance_scale": 7.5,
            "num_inference_steps": 50,
        },
        # DreamBench++
        "one-image": {
            "num_train_steps": 100,
            "batch": 1,
            "learning_rate": 1e-4,
            "guidance_scale": 7.5,
            "num_inference_steps": 100,
        },
    }

    @contextmanager
    def training_mode(
        self, backbone: Backbone, task: TrainingTask, options: DreamboothLoraOptions
    ) -> Iterator[TrainingTask]:
        with backbone.training_mode(), backbone.adapter(options.rank) as layers:
            _start(layers, options.rank, task.generator)
            yield replace(task, parameters=layers)

    @contextmanager
    def attach(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[AttachedModel]:
        learnt = of_denoiser(backbone, artifact.tensors)
        rank = min((min(tensor.shape) for tensor in learnt.values()), default=1)
        with backbone.adapter(rank) as layers:
            _check_shapes(learnt, layers, backbone)
            for name, layer in layers.items():
                layer.data.copy_(learnt[name] * (strength if "lora_B" in name else 1.0))
            yield AttachedModel(encode=identifying(backbone, artifact.options))

    def exported(self, artifact: Artifact) -> Mapping[str, Tensor]:
        """Return what `load_lora_weights` takes."""
        return artifact.tensors


def _start(layers: Mapping[str, Tensor], rank: int, random: torch.Generator) -> None:
    """Begin at the plain model: A normal with deviation 1 / rank, B zero (arXiv:2106.09685, section 4.1)."""
    with torch.no_grad():
        for name, layer in layers.items():
            if "lora_A" in name:
                layer.copy_(torch.randn(layer.shape, generator=random) / rank)
            else:
                layer.zero_()


def _check_shapes(learnt: Mapping[str, Tensor], layers: Mapping[str, Tensor], backbone: Backbone) -> None:
    theirs = {name: tensor.shape for name, tensor in learnt.items()}
    ours = {name: tensor.shape for name, tensor in layers.items()}
    if theirs != ours:
        strange = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
        raise ArtifactError(
            f"its layer {strange[0]!r} is missing, or has no place in {backbone.id}; fit again on this model"
        )
