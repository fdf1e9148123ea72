"""Textual Inversion: a new word of the text encoder's vocabulary is learnt; every weight stays frozen.

Gal et al., "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion",
arXiv:2208.01618, section 3. The new word takes the place of the subject's noun, from whose vector it starts.
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
from hiper.conditioning import Conditioning, truncation_notes
from hiper.errors import ArtifactError
from hiper.images import Subject
from hiper.methods.base import AttachedModel, TrainedMethod
from hiper.methods.fit_options import KeepingOptions, picture_latents, training_config
from hiper.methods.subject_noun import noun_of, with_word
from hiper.options import Spec
from hiper.seeds import generator
from hiper.training import NO_CONTROL, Denoising, FitControl, TrainingTask

_WORD = "<subject>"


@final
@dataclass(frozen=True, kw_only=True)
class TextualInversionOptions(KeepingOptions):
    """How a word is learnt, and what an edit does with it by default."""

    vectors: Annotated[int, Spec("tokens that the new word takes", low=1, high=32)] = 1
    noun: Annotated[str | None, Spec("the caption's word for the subject; none: found by a rule")] = None
    strength: Annotated[
        float, Spec("from the noun's own vector, 0, to the learnt one, 1", low=-10, high=10)
    ] = 1.0


@final
class TextualInversion(TrainedMethod[TextualInversionOptions]):
    """The result is one tensor [vectors, width] per text encoder, by the encoder's name."""

    name: ClassVar[str] = "textual-inversion"
    learns: ClassVar[str] = "a word of the text encoder's input"
    paper: ClassVar[str] = "arXiv:2208.01618"
    requires: ClassVar[frozenset[str]] = frozenset({"token_embeddings", "vocabulary"})
    token_embeddings_only: ClassVar[bool] = True
    options_type = TextualInversionOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "default": {
            "num_train_steps": 400,
            "batch": 4,
            "learning_rate": 1.3e-2,
            "vectors": 2,
            "schedule": "cosine",
            "sampling": "stratified",
        },
        # diffusers' example: 5e-4 scaled by 4 accumulated pictures
        "paper": {
            "keep_source": 0.0,
            "num_train_steps": 3000,
            "batch": 4,
            "learning_rate": 2e-3,
            "guidance_scale": 7.5,
            "num_inference_steps": 50,
        },
        # DreamBench++
        "one-image": {
            "num_train_steps": 3000,
            "batch": 1,
            "learning_rate": 5e-4,
            "guidance_scale": 7.5,
            "num_inference_steps": 100,
        },
    }

    def resolve(
        self, options: TextualInversionOptions, backbone: Backbone, subject: Subject
    ) -> TextualInversionOptions:
        return super().resolve(
            replace(options, noun=options.noun or noun_of(subject.caption)), backbone, subject
        )

    def prepare(
        self,
        backbone: Backbone,
        subject: Subject,
        options: TextualInversionOptions,
        control: FitControl = NO_CONTROL,
    ) -> TrainingTask:
        assert options.noun is not None
        random = generator(options.seed)
        sentence = with_word(subject.caption, options.noun, _WORD)
        start = {
            name: vector.repeat(options.vectors, 1).requires_grad_()
            for name, vector in backbone.token_embeddings(options.noun).items()
        }
        objective = Denoising(
            backbone=backbone,
            latents=picture_latents(backbone, subject, options, random),
            conditioning=lambda vectors: backbone.encode_with_token_embeddings(sentence, _WORD, vectors),
            batch=options.batch,
            bounds=(0, backbone.timesteps),
            sampling=options.sampling,
        )
        config = training_config(options, backbone)
        return TrainingTask(
            objective=objective, parameters=start, config=config, generator=random, latents=objective.latents
        )

    @contextmanager
    def training_mode(
        self, backbone: Backbone, task: TrainingTask, options: TextualInversionOptions
    ) -> Iterator[TrainingTask]:
        with backbone.training_mode(texts=True):
            yield task

    @contextmanager
    def attach(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[AttachedModel]:
        noun = str(artifact.options.get("noun"))
        start = backbone.token_embeddings(noun)
        _check_widths(artifact, start, backbone)
        vectors = {
            name: vector + strength * (artifact.tensors[name].to(vector.device) - vector)
            for name, vector in start.items()
        }

        def encode(prompt: str) -> Conditioning:
            with torch.no_grad():
                conditioning = backbone.encode_with_token_embeddings(
                    with_word(prompt, noun, _WORD), _WORD, vectors
                )
            return replace(conditioning, prompt=prompt, notes=truncation_notes(conditioning))

        yield AttachedModel(encode=encode)

    def exported(self, artifact: Artifact) -> Mapping[str, Tensor]:
        """Return what `load_textual_inversion` takes: one tensor named as the word, of SDXL clip_l and clip_g."""
        if len(artifact.tensors) == 1:
            return {_WORD: next(iter(artifact.tensors.values()))}
        names = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
        return {names.get(name, name): tensor for name, tensor in artifact.tensors.items()}


def _check_widths(artifact: Artifact, start: Mapping[str, Tensor], backbone: Backbone) -> None:
    theirs = {name: list(tensor.shape[1:]) for name, tensor in artifact.tensors.items()}
    ours = {name: list(tensor.shape[1:]) for name, tensor in start.items()}
    if theirs != ours:
        raise ArtifactError(
            f"its words are {theirs} numbers wide, those of {backbone.id} {ours}; fit again on this model"
        )
