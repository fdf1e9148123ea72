"""The interface of a method: learn a subject, and ready a backbone for editing with what was learnt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone, Samples, StepCallback
from hiper.conditioning import Conditioning
from hiper.errors import OptionError
from hiper.images import Subject
from hiper.methods.presets import AUTO, preset_file, suited, tell_of_other_model, untuned
from hiper.options import Options, Value, resolve
from hiper.training import Callback, CheckpointFile, StopRequest

O = TypeVar("O", bound=Options)  # noqa: E741

PromptEncoder = Callable[[str], Conditioning]


class Sampler(Protocol):
    """Draws pictures: `Backbone.sample`, or what a method puts in its place."""

    def __call__(
        self,
        positive: Conditioning,
        negatives: Sequence[Conditioning],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        scheduler: str,
        height: int,
        width: int,
        callback: StepCallback | None = None,
    ) -> Samples: ...


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A backbone readied for editing: how it takes a sentence and a negative one (None: as it is), and how it draws."""

    encode: PromptEncoder
    sample: Sampler
    encode_negative: PromptEncoder | None = None


class Method(ABC, Generic[O]):
    """A way to learn one subject. Subclasses are final and hold no state.

    learns, paper: what a fit yields, and where that is described; for the table of methods
    needs:        what a backbone must offer; an impossible pair is refused before any work
    presets:      name -> the options in which it differs from their defaults
    rows_only:    an edit is text rows alone, so that any pipeline of the family can draw it
    per_sentence: a fit serves one sentence only, that of its option `target`
    editing:      options that a fit does not depend on: fits that differ in nothing else are the same
    """

    name: ClassVar[str]
    learns: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    rows_only: ClassVar[bool] = False
    per_sentence: ClassVar[bool] = False
    options_type: type[O]
    presets: ClassVar[Mapping[str, Mapping[str, object]]]
    needs: ClassVar[frozenset[str]] = frozenset({"rows"})
    editing: ClassVar[frozenset[str]] = frozenset()

    def options(self, preset: str = "default", /, **values: object) -> O:
        """Build this method's options from a preset, of its own or a file's, and the values that differ from it.

        OptionError for an unknown name, a value out of range, a damaged file and one of another method.
        """
        found = None if preset in self.presets else preset_file(preset)
        if found is None:
            return resolve(self.options_type, self.presets, preset, values)
        if found.method != self.name:
            raise OptionError(f"preset {preset!r} is for method {found.method}, not {self.name}")
        return resolve(self.options_type, self.presets, untuned(self.presets), {**found.options, **values})

    def options_for(self, backbone: str, preset: str = AUTO, /, **values: object) -> O:
        """Build the options for a model of that name; `auto` is the preset that suits it.

        Warns (HiperWarning) of a preset's file that was tuned on another model.
        """
        if preset == AUTO:
            preset = suited(backbone, self.presets)
        elif preset not in self.presets:
            tell_of_other_model(preset, backbone)
        return self.options(preset, **values)

    def check(self, backbone: Backbone) -> None:
        """Refuse a backbone that lacks what the method needs."""
        missing = sorted(self.needs - backbone.offers)
        if missing:
            raise OptionError(
                f"method {self.name} needs {', '.join(missing)}, which {backbone.id} does not offer;"
                " choose another method or backbone"
            )

    def draws_by(self, backbone: Backbone) -> Mapping[str, Value]:
        """Return what an edit has to draw by where its options leave that to the model: `guidance`, `edit_steps`,
        `scheduler`. What is not there is the model's own."""
        return {}

    @abstractmethod
    def fit(
        self,
        backbone: Backbone,
        subject: Subject,
        options: O,
        *,
        callback: Callback | None = None,
        checkpoint: CheckpointFile | None = None,
        should_stop: StopRequest | None = None,
    ) -> Artifact:
        """Learn the subject. FitError when it fails, Interrupted when `should_stop` says so."""

    def exported(self, artifact: Artifact) -> Mapping[str, Tensor]:
        """Return what was learnt in the form in which diffusers loads it; OptionError when it has none."""
        raise OptionError(
            f"what method {self.name} learns has no file format of diffusers; draw with hiper edit"
            + (", or with a pipeline of your own by hiper.prompt_embeds" if self.rows_only else "")
        )

    @abstractmethod
    def applied(
        self, backbone: Backbone, artifact: Artifact, strength: float
    ) -> AbstractContextManager[Applied]:
        """Ready the backbone for editing, and restore it bit for bit on leaving.

        OptionError for a strength that means nothing to the method, ArtifactError for one that does not fit the model.
        """
