"""The interface of a method: learn a subject, and ready a backbone for editing with what was learnt."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Generic, Protocol, TypeVar

from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone, Samples, StepCallback, prediction_entry
from hiper.conditioning import Conditioning
from hiper.errors import OptionError
from hiper.images import Subject, thumbnail_data_url
from hiper.methods.fit_options import EDITING, KEEP_SOURCE, resolve_options
from hiper.methods.presets import AUTO, preset_file, suited, tell_of_other_model, untuned
from hiper.options import (
    Key,
    Options,
    SamplingSettings,
    Value,
    current_names,
    earlier_options,
    fit_key,
    resolve,
    versions,
)
from hiper.training import NO_CONTROL, FitControl, FitResult, TrainingState, TrainingTask, optimise

O = TypeVar("O", bound=Options)  # noqa: E741

PromptEncoder = Callable[[str], Conditioning]


class Sampler(Protocol):
    """Draws pictures: a backbone, or what a method puts in its place.

    Attributes:
        uses_negative_prompt: Whether drawing under guidance reads the negative sentence.
        uses_guidance: Whether drawing heeds the guidance scale.
    """

    @property
    def uses_negative_prompt(self) -> bool: ...

    @property
    def uses_guidance(self) -> bool: ...

    def uses_negative_prompt_at(self, guidance_scale: float) -> bool:
        """Whether drawing at that guidance scale reads the negative sentence."""

    def sample(
        self,
        positive: Conditioning,
        negatives: Sequence[Conditioning],
        settings: SamplingSettings,
        *,
        seeds: Sequence[int],
        callback: StepCallback | None = None,
    ) -> Samples:
        """See `Backbone.sample`."""


@dataclass(frozen=True, kw_only=True)
class AttachedModel:
    """A backbone readied for editing.

    Attributes:
        encode: Encodes a sentence with what was learnt.
        sampler: Draws; None: the backbone itself.
        encode_negative: Encodes a negative sentence; None: the backbone itself.
    """

    encode: PromptEncoder
    sampler: Sampler | None = None
    encode_negative: PromptEncoder | None = None


class Method(ABC, Generic[O]):
    """A way to learn one subject. Subclasses are final and hold no state.

    Attributes:
        name: By which a user chooses it.
        learns: What a fit yields, for the table of methods.
        paper: Where that is described.
        token_embeddings_only: An edit is token embeddings alone, so that any pipeline of the family can draw it.
        per_sentence: A fit serves one prompt only, that of its option `target`.
        options_type: The class of its options.
        presets: Name to the options in which it differs from their defaults.
        requires: Capabilities that a backbone must have; an impossible pair is refused before any work.
        editing: Options that a fit does not depend on: fits that differ in nothing else are the same.
        fits_together: Several subjects can share calls of the denoiser; see `fit_together`.
    """

    name: ClassVar[str]
    learns: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    token_embeddings_only: ClassVar[bool] = False
    per_sentence: ClassVar[bool] = False
    options_type: type[O]
    presets: ClassVar[Mapping[str, Mapping[str, object]]]
    requires: ClassVar[frozenset[str]] = frozenset({"token_embeddings"})
    editing: ClassVar[frozenset[str]] = frozenset()
    fits_together: ClassVar[bool] = False

    def options(self, preset: str = "default", /, **values: object) -> O:
        """Build this method's options from a preset and the values that differ from it.

        Args:
            preset: Of its own, or of a file.
            **values: By the name of the option.

        Raises:
            OptionError: A name is unknown, a value out of range, or the file damaged or of another method.
        """
        found = None if preset in self.presets else preset_file(preset)
        if found is None:
            return resolve(self.options_type, self.presets, preset, values)
        if found.method != self.name:
            raise OptionError(f"preset {preset!r} is for method {found.method}, not {self.name}")
        tuned = current_names(found.options, earlier_options(self.options_type))
        return resolve(self.options_type, self.presets, untuned(self.presets), {**tuned, **values})

    def options_for(self, backbone: str, preset: str = AUTO, /, **values: object) -> O:
        """Build the options for a model; a HiperWarning is issued for a preset's file that was tuned on another model.

        Args:
            backbone: The model's name.
            preset: As in `options`, or "auto" for the one that suits the model.
            **values: By the name of the option.
        """
        if preset == AUTO:
            preset = suited(backbone, self.presets)
        elif preset not in self.presets:
            tell_of_other_model(preset, backbone)
        return self.options(preset, **values)

    def check(self, backbone: Backbone) -> None:
        """Raise OptionError for a backbone that lacks what the method requires."""
        capabilities = {"token_embeddings" if each == "rows" else each for each in backbone.capabilities}
        missing = sorted(self.requires - capabilities)  # "rows": of a backbone written for an earlier release
        if missing:
            raise OptionError(
                f"method {self.name} requires {', '.join(missing)}, which {backbone.id} does not have;"
                " choose another method or backbone"
            )

    def sampling_defaults(self, backbone: Backbone) -> Mapping[str, Value]:
        """Return guidance scale, number of steps and scheduler where the method, not the model, decides them."""
        return {}

    @abstractmethod
    def fit(
        self, backbone: Backbone, subject: Subject, options: O, control: FitControl = NO_CONTROL
    ) -> Artifact:
        """Learn the subject.

        Raises:
            FitError: Nothing can be learnt.
            Interrupted: `control` asked to stop.
        """

    def resolve(self, options: O, backbone: Backbone, subject: Subject) -> O:
        """Fill in what the options leave to the model or the subject."""
        return resolve_options(options, backbone)

    def key(self, backbone: Backbone, subject: Subject, options: O) -> Key:
        """Return everything that decides what is learnt: a resumed fit must agree in all of it."""
        return fit_key(
            self.name,
            backbone.model_key(),
            picture=subject.sha256,
            caption=subject.caption,
            options=options,
            leaving=self.editing,
        )

    def artifact(
        self,
        backbone: Backbone,
        subject: Subject,
        options: O,
        tensors: Mapping[str, Tensor],
        figures: Mapping[str, float],
        fingerprint: tuple[float, ...] | None = None,
        source: Tensor | None = None,
    ) -> Artifact:
        """Build the artifact of a fit.

        Args:
            backbone: The model.
            subject: What was learnt.
            options: As `resolve` returned them.
            tensors: What was learnt, by name.
            figures: Seconds and losses.
            fingerprint: Of the model; None computes it.
            source: Latents of the picture, [1, c, h, w].
        """
        values = options.as_mapping()
        editing = (*EDITING, KEEP_SOURCE)
        return Artifact(
            method=self.name,
            family=backbone.family,
            backbone=backbone.id,
            revision=backbone.revision,
            fingerprint=backbone.fingerprint() if fingerprint is None else fingerprint,
            caption=subject.caption,
            image_sha256=subject.sha256,
            seed=int(values["seed"]),
            options={name: value for name, value in values.items() if name not in (*editing, "source")},
            edit={name: values[name] for name in editing if name in values},
            tensors=dict(tensors),
            figures=dict(figures),
            versions=versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            thumbnail=thumbnail_data_url(subject.image),
            extra=prediction_entry(backbone.objective),
            source=source if values.get("source", True) else None,
        )

    def exported(self, artifact: Artifact) -> Mapping[str, Tensor]:
        """Return what was learnt in the form in which diffusers loads it; OptionError when it has none."""
        raise OptionError(
            f"what method {self.name} learns has no file format of diffusers; draw with hiper edit"
            + (
                ", or with a pipeline of your own by hiper.prompt_embeds"
                if self.token_embeddings_only
                else ""
            )
        )

    @abstractmethod
    def attach(
        self, backbone: Backbone, artifact: Artifact, strength: float
    ) -> AbstractContextManager[AttachedModel]:
        """Prepare the backbone for editing, and restore it bit for bit on leaving.

        Args:
            backbone: The model.
            artifact: What was learnt.
            strength: Factor on it.

        Raises:
            OptionError: The method has no use for the strength.
            ArtifactError: The artifact does not fit the model.
        """


class TrainedMethod(Method[O]):
    """A method that minimises a loss: a subclass says what and over which parameters, `prepare`; the rest is here."""

    editing: ClassVar[frozenset[str]] = frozenset({*EDITING, KEEP_SOURCE})

    @abstractmethod
    def prepare(
        self, backbone: Backbone, subject: Subject, options: O, control: FitControl = NO_CONTROL
    ) -> TrainingTask:
        """Encode caption and picture, and return what is to be minimised.

        Args:
            backbone: With all its components.
            subject: What is learnt.
            options: As `resolve` returned them.
            control: Asked by whatever takes long.
        """

    @contextmanager
    def training_mode(self, backbone: Backbone, task: TrainingTask, options: O) -> Iterator[TrainingTask]:
        """Ready the backbone for the steps, and restore it afterwards; yield the task with its final parameters."""
        with backbone.training_mode():
            yield task

    def learnt(self, backbone: Backbone, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the tensors of the artifact."""
        return parameters

    def fit(
        self, backbone: Backbone, subject: Subject, options: O, control: FitControl = NO_CONTROL
    ) -> Artifact:
        options = self.resolve(options, backbone, subject)
        key = self.key(backbone, subject, options) if control.checkpoint is not None else {}
        task = self.prepare(backbone, subject, options, control)
        fingerprint = backbone.fingerprint()
        with self.training_mode(backbone, task, options) as ready:
            fitted = optimise(ready, control, key)
        return self.fitted_artifact(backbone, subject, options, fitted, fingerprint, task.latents)

    def fitted_artifact(
        self,
        backbone: Backbone,
        subject: Subject,
        options: O,
        fitted: FitResult,
        fingerprint: tuple[float, ...] | None = None,
        source: Tensor | None = None,
    ) -> Artifact:
        """Return the artifact of a finished fit, or of what one had learnt so far."""
        figures = {
            "seconds": round(fitted.seconds, 3),
            "loss_before": fitted.loss_before,
            "loss_after": fitted.loss_after,
        }
        tensors = self.learnt(backbone, fitted.parameters)
        return self.artifact(backbone, subject, options, tensors, figures, fingerprint, source)

    def unfinished(self, backbone: Backbone, subject: Subject, options: O, state: TrainingState) -> Artifact:
        """Return what a fit had learnt when it saved `state`; its loss is not known (NaN)."""
        progress = state.progress
        so_far = FitResult(
            parameters=state.parameters,
            loss_before=progress.loss_before,
            loss_after=math.nan,
            seconds=progress.seconds,
        )
        return self.fitted_artifact(backbone, subject, self.resolve(options, backbone, subject), so_far)
