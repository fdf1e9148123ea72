"""HiPer: only the last token embeddings are learnt, and they make every later sentence speak of the subject.

Han, Yang, Kwon, Ye, "Highly Personalized Text Embedding for Image Manipulation by Stable Diffusion",
arXiv:2303.08767, section 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, final

import torch
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.conditioning import (
    NEGATIVE,
    PLACEMENTS,
    TAIL,
    Conditioning,
    Init,
    Placement,
    initial_tail,
    keep_norms,
    lengthened,
    place_tail,
    tail_notes,
    take_tail,
)
from hiper.errors import ArtifactError, HiperWarning, OptionError
from hiper.images import Subject
from hiper.methods.base import AttachedModel, PromptEncoder, TrainedMethod
from hiper.methods.fit_options import KeepingOptions, picture_latents, training_config
from hiper.options import Spec
from hiper.seeds import generator
from hiper.training import (
    NO_CONTROL,
    Constraint,
    Denoising,
    FitControl,
    Keep,
    TrainingConfig,
    TrainingTask,
    level_range,
    mask_weight,
)

_PUBLISHED: Mapping[str, object] = {
    "num_train_steps": 1000,
    "batch": 1,
    "learning_rate": 5e-3,
    "schedule": "constant",
    "sampling": "uniform",
}

# Options that a preset does not name have the defaults below, which are the paper's.
PRESETS: Mapping[str, Mapping[str, object]] = {
    "default": {
        "num_train_steps": 40,
        "batch": 1,
        "learning_rate": 0.08,
        "unit": "embedding_rms",
        "norm": "kept",
        "schedule": "constant",
        "keep": "mean",
        "sampling": "stratified",
        "t_min": 0.3,
        "init": None,
        "guidance_scale": None,
    },
    "published": {**_PUBLISHED, "guidance_scale": None},
    "paper": {
        **_PUBLISHED,
        "guidance_scale": 7.5,
        "num_inference_steps": 50,
        "scheduler": "ddim",
        "keep_source": 0.0,
    },
}


@final
@dataclass(frozen=True, kw_only=True)
class HiPerOptions(KeepingOptions):
    """How a tail is fitted, and what an edit does with it by default."""

    learning_rate: Annotated[float, Spec("Adam's step size, in `unit`", low=1e-8, high=10)]
    tail: Annotated[int, Spec("token embeddings that are learnt", low=1, high=64)] = 5
    placement: Annotated[
        Placement | None,
        Spec(
            "token embeddings that the tail takes: replace the last, append so that no word is lost, after-words, or"
            " random; none: what suits the model"
        ),
    ] = None
    init: Annotated[
        Init | None,
        Spec(
            "the tail before it is learnt: the caption's last token embeddings, zeros, random ones, padding-mean, or"
            " what the model's tail encoder guesses; none: guess where the model has one, else caption"
        ),
    ] = "caption"
    unit: Annotated[
        Literal["numbers", "embedding_rms"],
        Spec(
            "of the learning rate: numbers, or embedding_rms: the root mean square of the caption's last token"
            " embeddings"
        ),
    ] = "numbers"
    norm: Annotated[
        Literal["free", "kept"],
        Spec("norms of the token embeddings: free, or kept at those of the caption's last ones"),
    ] = "free"
    t_min: Annotated[float, Spec("lowest timestep, as a fraction: 0 clean to 1 noise", low=0, high=1)] = 0.0
    t_max: Annotated[float, Spec("highest timestep, as a fraction: 0 clean to 1 noise", low=0, high=1)] = 1.0
    keep: Annotated[
        Keep, Spec("the last tail, the best on a fixed batch, or the mean over the second half of the steps")
    ] = "last"
    mask: Annotated[bool, Spec("weight the loss with the subject's mask, if it has one")] = True
    strength: Annotated[
        float, Spec("factor on the tail when editing; the paper's is 0.8", low=-10, high=10)
    ] = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.t_min < self.t_max:
            raise OptionError(f"t_min is {self.t_min} and t_max is {self.t_max}; t_min must be the smaller")


@final
class HiPer(TrainedMethod[HiPerOptions]):
    """The method. All weights stay frozen; the result is one tensor [tail, embed_dim]."""

    name: ClassVar[str] = "hiper"
    learns: ClassVar[str] = "the last token embeddings"
    paper: ClassVar[str] = "arXiv:2303.08767"
    token_embeddings_only: ClassVar[bool] = True
    fits_together: ClassVar[bool] = True
    options_type = HiPerOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = PRESETS

    def prepare(
        self, backbone: Backbone, subject: Subject, options: HiPerOptions, control: FitControl = NO_CONTROL
    ) -> TrainingTask:
        random = generator(options.seed)
        caption = backbone.encode(subject.caption)
        for note in tail_notes(caption, options.tail, _placement(options), options.seed):
            warnings.warn(f"caption: {note}", HiperWarning, stacklevel=4)
        objective = _objective(backbone, subject, caption, options, random)
        tail = _first_tail(backbone, caption, objective.latents, options, random)
        return TrainingTask(
            objective=objective,
            parameters={TAIL: tail.requires_grad_()},
            config=_config(backbone, options, take_tail(caption, options.tail)),
            generator=random,
            latents=objective.latents,
        )

    @contextmanager
    def attach(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[AttachedModel]:
        tail = artifact.tensors[TAIL].to(backbone.device) * strength
        placement = _placement_of(artifact)
        added = len(tail) if placement == "append" and strength != 0 else 0

        def encode(prompt: str) -> Conditioning:
            plain = backbone.encode(prompt)
            # Embeddings of zeros would not be nothing: they take attention from the others.
            return plain if strength == 0 else _with_tail(plain, tail, placement, artifact.seed)

        negative = _negative_encoder(backbone, artifact, added) if NEGATIVE in artifact.tensors else None
        yield AttachedModel(encode=encode, encode_negative=negative)


def _negative_encoder(backbone: Backbone, artifact: Artifact, added: int) -> PromptEncoder:
    """Put the negative tail behind a negative sentence, which gets as long as the sentence where lengths are fixed."""
    tail = artifact.tensors[NEGATIVE].to(backbone.device)
    if backbone.placement == "append":
        return lambda prompt: _with_tail(backbone.encode_negative(prompt), tail, "append")

    def encode(prompt: str) -> Conditioning:
        plain = backbone.encode_negative(prompt)
        return _with_tail(lengthened(plain, plain.sequence_length + added), tail, "replace")

    return encode


def _with_tail(conditioning: Conditioning, tail: Tensor, placement: Placement, seed: int = 0) -> Conditioning:
    notes = tail_notes(conditioning, len(tail), placement, seed)
    return replace(place_tail(conditioning, tail, placement, seed), notes=notes)


def _placement_of(artifact: Artifact) -> Placement:
    named = artifact.options.get("placement", "replace")
    for placement in PLACEMENTS:
        if placement == named:
            return placement
    raise ArtifactError(f"its tail is placed by {named!r}; allowed are {', '.join(PLACEMENTS)}: update hiper")


def _placement(options: HiPerOptions) -> Placement:
    assert options.placement is not None
    return options.placement


def _first_tail(
    backbone: Backbone, caption: Conditioning, latents: Tensor, options: HiPerOptions, random: torch.Generator
) -> Tensor:
    assert options.init is not None
    guessed = None
    if options.init == "guess":
        if backbone.tail_encoder is None:
            raise OptionError(
                f"init is 'guess', but {backbone.id} has no tail encoder; allowed are caption, zeros, random and"
                " padding-mean"
            )
        guessed = backbone.tail_encoder.guess(latents)
    return initial_tail(caption, options.tail, options.init, random, guessed)


def _objective(
    backbone: Backbone,
    subject: Subject,
    caption: Conditioning,
    options: HiPerOptions,
    random: torch.Generator,
) -> Denoising:
    mask = subject.mask if options.mask else None
    placement = _placement(options)

    def conditioning(parameters: Mapping[str, Tensor]) -> Conditioning:
        return place_tail(caption, parameters[TAIL], placement, options.seed)

    return Denoising(
        backbone=backbone,
        latents=picture_latents(backbone, subject, options, random),
        conditioning=conditioning,
        batch=options.batch,
        bounds=level_range(options.t_min, options.t_max, backbone.timesteps),
        sampling=options.sampling,
        weight=mask_weight(mask, backbone, options.square) if mask is not None else None,
    )


def _config(backbone: Backbone, options: HiPerOptions, own: Tensor) -> TrainingConfig:
    """own: the caption's last token embeddings [tail, embed_dim], by which a learnt one is measured."""
    unit = float(own.square().mean().sqrt()) if options.unit == "embedding_rms" else 1.0
    return training_config(
        options,
        backbone,
        learning_rate=options.learning_rate * unit,
        keep=options.keep,
        constraint=_norm_keeper(own) if options.norm == "kept" else None,
    )


def _norm_keeper(own: Tensor) -> Constraint:
    norms = torch.linalg.vector_norm(own, dim=1, keepdim=True)
    return lambda parameters: keep_norms(parameters[TAIL], norms)
