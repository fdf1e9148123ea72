"""DreamBooth: every weight of the denoiser is fine-tuned until a rare word means the subject.

Ruiz et al., arXiv:2208.12242, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, final

from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.methods.base import AttachedModel
from hiper.methods.identifiers import IdentifierMethod, IdentifierOptions, identifying
from hiper.methods.weights import OverWeights, copied, swapped_weights
from hiper.options import Spec
from hiper.training import TrainingTask


@final
@dataclass(frozen=True, kw_only=True)
class DreamboothOptions(IdentifierOptions):
    """How the weights are fine-tuned, and what an edit does with them by default."""

    strength: Annotated[
        float, Spec("from the model's own weights, 0, to the fine-tuned ones, 1", low=-10, high=10)
    ] = 1.0


@final
class Dreambooth(IdentifierMethod[DreamboothOptions]):
    """The result is every weight of the denoiser; the model's own are never written to."""

    name: ClassVar[str] = "dreambooth"
    learns: ClassVar[str] = "all weights of the denoiser"
    paper: ClassVar[str] = "arXiv:2208.12242"
    requires: ClassVar[frozenset[str]] = frozenset({"token_embeddings", "weights"})
    options_type = DreamboothOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "default": {
            "num_train_steps": 200,
            "batch": 4,
            "learning_rate": 2.1e-4,
            "schedule": "cosine",
            "sampling": "stratified",
        },
        # diffusers' example, with prior preservation
        "paper": {
            "keep_source": 0.0,
            "num_train_steps": 800,
            "batch": 1,
            "learning_rate": 5e-6,
            "class_images": 200,
            "guidance_scale": 7.5,
            "num_inference_steps": 50,
        },
        # DreamBench++
        "one-image": {
            "num_train_steps": 250,
            "batch": 1,
            "learning_rate": 2.5e-6,
            "guidance_scale": 7.5,
            "num_inference_steps": 100,
        },
    }

    @contextmanager
    def training_mode(
        self, backbone: Backbone, task: TrainingTask, options: DreamboothOptions
    ) -> Iterator[TrainingTask]:
        with backbone.training_mode(weights=True):
            over = OverWeights(module=backbone.denoiser, inner=task.objective)
            config = replace(task.config, rollback=False)  # three more copies of all weights
            yield replace(task, objective=over, parameters=copied(backbone.denoiser), config=config)

    @contextmanager
    def attach(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[AttachedModel]:
        with swapped_weights(backbone, artifact, strength):
            yield AttachedModel(encode=identifying(backbone, artifact.options))

    def exported(self, artifact: Artifact) -> Mapping[str, Tensor]:
        """Return the denoiser's state, for `load_state_dict` or in the place of a model folder's weights."""
        return {name.partition(".")[2]: tensor for name, tensor in artifact.tensors.items()}
