"""The interface of a suite: subjects, edits of them, and how a picture is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

Scores = Mapping[str, float | None]
"""Metric to value; None where the metric does not apply to this case (a colour in a pencil sketch)."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How to read a score.

    Attributes:
        text: What it says.
        better: Whether higher or lower is better.
        unit: Of its values.
        low: Its least value; None where it is unbounded.
        high: Its greatest value, likewise.
    """

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
    """One edit of one subject.

    Attributes:
        subject: Its name, for files: letters, digits, hyphens.
        edit: Its name, likewise.
        source: The picture to learn from.
        source_caption: Of the source.
        target_caption: The prompt.
        mask: Of the source (mode L), for a fit to use; None where its owner gave none.
        truth: The answer; None where it is not known.
        other_captions: Captions, by name, that say less of the source than its own, or something wrong.
        region: Of the source (mode L, of its size), above 127 where the edit may change it; None where it is not known.
    """

    subject: str
    edit: str
    source: Image.Image
    source_caption: str
    target_caption: str
    mask: Image.Image | None
    truth: Truth | None
    other_captions: Mapping[str, str] = field(default_factory=dict)
    region: Image.Image | None = None

    def learnt_from(self, source_caption: str) -> str:
        """Return the caption that the source is learnt from: its own for "", else one of the others."""
        return self.other_captions[source_caption] if source_caption else self.source_caption


class Suite(ABC):
    """A set of cases and their scores."""

    @abstractmethod
    def identity(self) -> Mapping[str, str | int]:
        """Return what must agree for two runs to be comparable: name, split, seed, content hash, ..."""

    @abstractmethod
    def subjects(self) -> Sequence[str]:
        """Return the names of the subjects, in order; every prefix is a fair smaller suite."""

    @abstractmethod
    def cases(self, subject: str) -> Sequence[Case]:
        """Return the edits of one subject."""

    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Return the metrics, in the order in which a table shows them."""

    @abstractmethod
    def score(self, case: Case, picture: Image.Image) -> Scores:
        """Score a picture drawn for `case`; the keys are those of `metrics`."""
