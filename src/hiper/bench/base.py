"""What a suite is: subjects, edits of them, and how a picture is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

Scores = Mapping[str, float | None]
"""Metric -> value; None where the metric says nothing of this case (a colour in a pencil sketch)."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How to read a score. `better`: higher or lower; `low` and `high`: its range, None where unbounded."""

    text: str
    better: Literal["higher", "lower"]
    unit: str
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The true answer to an edit.

    Attributes:
        image: The edited picture.
        mask: The subject in `image`, mode L, 255 where it is.
        source_mask: The subject in the source, likewise.
        spelled_out: A caption that spells out the subject's identity.
    """

    image: Image.Image
    mask: Image.Image
    source_mask: Image.Image
    spelled_out: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """One edit of one subject. `subject` and `edit` are names for files: letters, digits, hyphens.

    mask: given with the source by its owner (mode L), for a fit to use; truth: None where nobody knows the answer.
    other_captions: name -> a caption that says less of the source than its own, or something wrong
    """

    subject: str
    edit: str
    source: Image.Image
    source_caption: str
    target_caption: str
    mask: Image.Image | None
    truth: Truth | None
    other_captions: Mapping[str, str] = field(default_factory=dict)

    def learnt_from(self, source_caption: str) -> str:
        """Return the caption that the source is learnt from: its own for "", else one of the others."""
        return self.other_captions[source_caption] if source_caption else self.source_caption


class Suite(ABC):
    """A set of cases and their scores."""

    @abstractmethod
    def identity(self) -> Mapping[str, str | int]:
        """What must agree for two runs to be comparable: name, split, seed, content hash, ..."""

    @abstractmethod
    def subjects(self) -> Sequence[str]:
        """Names of the subjects, in order; every prefix is a fair smaller suite."""

    @abstractmethod
    def cases(self, subject: str) -> Sequence[Case]:
        """The edits of one subject."""

    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics, in the order in which a table shows them."""

    @abstractmethod
    def score(self, case: Case, picture: Image.Image) -> Scores:
        """Score a picture drawn for `case`; the keys are those of `metrics`."""
