"""HiPer: only the last text rows are learnt, and they make every later sentence speak of the subject.

Han, Yang, Kwon, Ye, "Highly Personalized Text Embedding for Image Manipulation by Stable Diffusion",
arXiv:2303.08767, section 3.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal, final

import torch
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone, Scheduler
from hiper.conditioning import (
    NEGATIVE,
    PLACEMENTS,
    TAIL,
    Conditioning,
    Initial,
    Placement,
    initial_tail,
    keep_norms,
    lengthened,
    place_tail,
    tail_notes,
    take_tail,
)
from hiper.errors import ArtifactError, HiperError, HiperWarning, OptionError
from hiper.images import Subject, fit_square
from hiper.methods.base import Applied, Method, PromptEncoder
from hiper.methods.jobs import EDITING, fit_figures, identity, loss_scale, settled, window
from hiper.methods.jobs import artifact as artifact_of
from hiper.methods.together import FitRequest, FitsTogether, losses_together
from hiper.options import Options, Spec
from hiper.seeds import generator
from hiper.training import (
    Callback,
    CheckpointFile,
    Denoising,
    Fitted,
    Keep,
    Outcome,
    Project,
    Recipe,
    Sampling,
    Schedule,
    StopRequest,
    TrainingState,
    Turn,
    attempt,
    level_range,
    mask_weight,
    optimise,
    optimise_together,
)

_PUBLISHED: Mapping[str, object] = {
    "steps": 1000,
    "batch": 1,
    "learning_rate": 5e-3,
    "schedule": "constant",
    "sampling": "uniform",
}

# Options that a preset does not name have the defaults below, which are the paper's.
PRESETS: Mapping[str, Mapping[str, object]] = {
    "default": {
        "steps": 40,
        "batch": 1,
        "learning_rate": 0.08,
        "unit": "rows",
        "norm": "kept",
        "schedule": "constant",
        "keep": "mean",
        "sampling": "stratified",
        "t_min": 0.3,
        "initial": None,
        "guidance": None,
    },
    "published": {**_PUBLISHED, "guidance": None},
    "paper": {**_PUBLISHED, "guidance": 7.5, "edit_steps": 50, "scheduler": "ddim"},
}


@final
@dataclass(frozen=True, kw_only=True)
class HiPerOptions(Options):
    """How a tail is fitted, and what an edit does with it unless told otherwise."""

    steps: Annotated[int, Spec("optimisation steps", low=1, high=1_000_000)]
    batch: Annotated[int, Spec("noise levels per step", low=1, high=1024)]
    learning_rate: Annotated[float, Spec("Adam's step size, in `unit`", low=1e-8, high=10)]
    schedule: Annotated[Schedule, Spec("course of the learning rate: constant, or cosine down to 0")]
    sampling: Annotated[Sampling, Spec("noise levels: uniform, or stratified over the batch")]
    tail: Annotated[int, Spec("rows that are learnt", low=1, high=64)] = 5
    placement: Annotated[
        Placement | None,
        Spec(
            "rows that the tail takes: replace the last, append so that no word is lost, after-words, or random;"
            " none: what suits the model"
        ),
    ] = None
    initial: Annotated[
        Initial | None,
        Spec(
            "the tail before it is learnt: the caption's last rows, zeros, random rows, padding-mean, or what the"
            " model's tail encoder guesses; none: guess where the model has one, else caption"
        ),
    ] = "caption"
    unit: Annotated[
        Literal["numbers", "rows"],
        Spec("of the learning rate: numbers, or the caption's last rows, by their root mean square"),
    ] = "numbers"
    norm: Annotated[
        Literal["free", "kept"],
        Spec("lengths of the rows: free, or kept at those of the caption's last rows"),
    ] = "free"
    t_min: Annotated[float, Spec("lowest noise level, 0 clean to 1 noise", low=0, high=1)] = 0.0
    t_max: Annotated[float, Spec("highest noise level, 0 clean to 1 noise", low=0, high=1)] = 1.0
    keep: Annotated[
        Keep, Spec("the last tail, the best on a fixed batch, or the mean over the second half of the steps")
    ] = "last"
    mask: Annotated[bool, Spec("weight the loss with the subject's mask, if it has one")] = True
    square: Annotated[Literal["crop", "pad"], Spec("how a picture becomes square")] = "crop"
    seed: Annotated[int, Spec("of all randomness; -1 draws one", low=-1)] = 0
    strength: Annotated[
        float, Spec("factor on the tail when editing; the paper's is 0.8", low=-10, high=10)
    ] = 0.8
    guidance: Annotated[float | None, Spec("guidance when editing; none: the model's own", low=0, high=100)]
    edit_steps: Annotated[
        int | None, Spec("denoising steps when editing; none: the model's own", low=1, high=1000)
    ] = None
    scheduler: Annotated[Scheduler | None, Spec("sampler when editing; none: the model's own")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.t_min < self.t_max:
            raise OptionError(f"t_min is {self.t_min} and t_max is {self.t_max}; t_min must be the smaller")


@final
class HiPer(Method[HiPerOptions], FitsTogether):
    """The method. All weights stay frozen; the result is one tensor [tail, embed]."""

    name: ClassVar[str] = "hiper"
    learns: ClassVar[str] = "the last text rows"
    paper: ClassVar[str] = "arXiv:2303.08767"
    rows_only: ClassVar[bool] = True
    options_type = HiPerOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = PRESETS
    editing = frozenset(EDITING)

    def fit(
        self,
        backbone: Backbone,
        subject: Subject,
        options: HiPerOptions,
        *,
        callback: Callback | None = None,
        checkpoint: CheckpointFile | None = None,
        should_stop: StopRequest | None = None,
    ) -> Artifact:
        begun = _Begun.of(backbone, subject, options)
        told = identity(self.name, backbone, subject, begun.options) if checkpoint is not None else {}
        turn = begun.turn
        with backbone.fitting():
            fitted = optimise(
                turn.objective,
                turn.parameters,
                turn.recipe,
                turn.generator,
                identity=told,
                callback=callback,
                checkpoint=checkpoint,
                should_stop=should_stop,
            )
        return begun.artifact(fitted)

    def turn(self, backbone: Backbone, subject: Subject, options: HiPerOptions) -> Turn:
        """Return the optimisation that `fit` would run inside `backbone.fitting()`, before its first step."""
        return _Begun.of(backbone, subject, options).turn

    def alike(self, options: HiPerOptions) -> Hashable:
        return options.steps, options.batch

    def noise_levels(self, options: HiPerOptions) -> int:
        return options.batch

    def fit_together(
        self,
        backbone: Backbone,
        requests: Sequence[FitRequest],
        *,
        slots: int,
        should_stop: StopRequest | None = None,
    ) -> list[Outcome[Artifact]]:
        begun = [attempt(partial(_Begun.of, backbone, each.subject, each.options)) for each in requests]
        fits = {i: each.result for i, each in enumerate(begun) if isinstance(each.result, _Begun)}
        turns = [fit.turn for fit in fits.values()]
        with backbone.fitting():
            fitted = optimise_together(turns, partial(losses_together, slots=slots), should_stop=should_stop)
        ended = dict(zip(fits, fitted, strict=True))
        return [_ended(each, ended.get(i)) for i, each in enumerate(begun)]

    def unfinished(
        self, backbone: Backbone, subject: Subject, options: HiPerOptions, state: TrainingState
    ) -> Artifact:
        """Return what a stopped fit had learnt when it saved `state`; its loss is not known (NaN)."""
        progress = state.progress
        so_far = Fitted(
            parameters=state.parameters,
            loss_before=progress.loss_before,
            loss_after=math.nan,
            seconds=progress.seconds,
        )
        return _artifact(backbone, subject, settled(options, backbone), backbone.fingerprint(), so_far)

    @contextmanager
    def applied(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[Applied]:
        tail = artifact.tensors[TAIL].to(backbone.device) * strength
        placement = _placement_of(artifact)
        added = len(tail) if placement == "append" and strength != 0 else 0

        def encode(prompt: str) -> Conditioning:
            plain = backbone.encode(prompt)
            # Rows of zeros would not be nothing: they take attention from the others.
            return plain if strength == 0 else _with_tail(plain, tail, placement, artifact.seed)

        negative = _negative_encoder(backbone, artifact, added) if NEGATIVE in artifact.tensors else None
        yield Applied(encode=encode, sample=backbone.sample, encode_negative=negative)


def _negative_encoder(backbone: Backbone, artifact: Artifact, added: int) -> PromptEncoder:
    """Put the negative tail behind a negative sentence, which gets as long as the sentence where lengths are fixed."""
    tail = artifact.tensors[NEGATIVE].to(backbone.device)
    if backbone.placement == "append":
        return lambda prompt: _with_tail(backbone.encode_negative(prompt), tail, "append")

    def encode(prompt: str) -> Conditioning:
        plain = backbone.encode_negative(prompt)
        return _with_tail(lengthened(plain, plain.length + added), tail, "replace")

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


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """A fit whose text rows and latents are computed, ready for its steps."""

    backbone: Backbone
    subject: Subject
    options: HiPerOptions
    fingerprint: tuple[float, ...]
    turn: Turn

    @classmethod
    def of(cls, backbone: Backbone, subject: Subject, options: HiPerOptions) -> _Begun:
        options = settled(options, backbone)
        random = generator(options.seed)
        caption = backbone.encode(subject.caption)
        for note in tail_notes(caption, options.tail, _placement(options), options.seed):
            warnings.warn(f"caption: {note}", HiperWarning, stacklevel=4)
        objective = _objective(backbone, subject, caption, options, random)
        tail = _first_tail(backbone, caption, objective.latents, options, random)
        turn = Turn(
            objective=objective,
            parameters={TAIL: tail.requires_grad_()},
            recipe=_recipe(backbone, options, take_tail(caption, options.tail)),
            generator=random,
        )
        return cls(
            backbone=backbone,
            subject=subject,
            options=options,
            fingerprint=backbone.fingerprint(),
            turn=turn,
        )

    def artifact(self, fitted: Fitted) -> Artifact:
        return _artifact(self.backbone, self.subject, self.options, self.fingerprint, fitted)


def _ended(begun: Outcome[_Begun], fitted: Outcome[Fitted] | None) -> Outcome[Artifact]:
    """Join what came of a subject before its steps and in them; None: it did not come so far."""
    if isinstance(begun.result, HiperError):
        return Outcome(result=begun.result, notes=begun.notes)
    assert fitted is not None
    notes = (*begun.notes, *fitted.notes)
    if isinstance(fitted.result, HiperError):
        return Outcome(result=fitted.result, notes=notes)
    return Outcome(result=begun.result.artifact(fitted.result), notes=notes)


def _placement(options: HiPerOptions) -> Placement:
    assert options.placement is not None
    return options.placement


def _first_tail(
    backbone: Backbone, caption: Conditioning, latents: Tensor, options: HiPerOptions, random: torch.Generator
) -> Tensor:
    assert options.initial is not None
    guessed = None
    if options.initial == "guess":
        if backbone.tail_encoder is None:
            raise OptionError(
                f"initial is 'guess', but {backbone.id} has no tail encoder; allowed are caption, zeros, random and"
                " padding-mean"
            )
        guessed = backbone.tail_encoder.guess(latents)
    return initial_tail(caption, options.tail, options.initial, random, guessed)


def _objective(
    backbone: Backbone,
    subject: Subject,
    caption: Conditioning,
    options: HiPerOptions,
    random: torch.Generator,
) -> Denoising:
    picture = fit_square(subject.image, backbone.resolution, how=options.square)
    mask = subject.mask if options.mask else None

    placement = _placement(options)

    def conditioning(parameters: Mapping[str, Tensor]) -> Conditioning:
        return place_tail(caption, parameters[TAIL], placement, options.seed)

    return Denoising(
        backbone=backbone,
        latents=backbone.latents(picture, random),
        conditioning=conditioning,
        batch=options.batch,
        bounds=level_range(options.t_min, options.t_max, backbone.timesteps),
        sampling=options.sampling,
        weight=mask_weight(mask, backbone, options.square) if mask is not None else None,
    )


def _recipe(backbone: Backbone, options: HiPerOptions, own: Tensor) -> Recipe:
    """own: the caption's last rows [tail, embed], by which a learnt row is measured."""
    unit = float(own.square().mean().sqrt()) if options.unit == "rows" else 1.0
    return Recipe(
        steps=options.steps,
        learning_rate=options.learning_rate * unit,
        schedule=options.schedule,
        keep=options.keep,
        loss_scale=loss_scale(backbone),
        window=window(backbone),
        project=_norm_keeper(own) if options.norm == "kept" else None,
    )


def _norm_keeper(own: Tensor) -> Project:
    norms = torch.linalg.vector_norm(own, dim=1, keepdim=True)
    return lambda parameters: keep_norms(parameters[TAIL], norms)


def _artifact(
    backbone: Backbone,
    subject: Subject,
    options: HiPerOptions,
    fingerprint: tuple[float, ...],
    fitted: Fitted,
) -> Artifact:
    return artifact_of(
        HiPer.name,
        backbone,
        subject,
        options,
        fitted.parameters,
        fit_figures(fitted),
        fingerprint=fingerprint,
    )
