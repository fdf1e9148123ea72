"""The files of a run: `run.json`, which describes it, and one JSON per cell beside its picture.

DIR/run.json                                          suite, model, arms, subjects, metrics
DIR/cells/<arm>/<subject>/<edit>-<seed>.json, .png    a cell is there when its JSON is
DIR/fits/<arm>/<subject>.safetensors                  what was learnt, or <subject>/<edit> for one sentence;
                                                      <arm>: without what only an edit asks for
DIR/subjects/<subject>/source.png, <edit>-truth.png   for the report
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from hiper.bench.base import Metric, Scores
from hiper.errors import HiperError, OptionError, OutputError
from hiper.files import atomic_write, parse_json, read_text
from hiper.options import Value, conforms

SCHEMA = 1
_MAX_BYTES = 100_000_000
RUN = "run.json"
_MAX_SEEDS = 100_000
_LONGEST_NAME = 200
"""Bytes; with a seed and an ending it is still a file name."""

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One picture of one arm, and all that a report needs to know of it.

    Attributes:
        suite: Its identity.
        arm: Its canonical text.
        options: Of the arm, resolved.
        settings: Of the drawing.
        subject: Its name.
        edit: Its name.
        seed: Of the picture.
        caption: Of the source.
        prompt: Of the picture.
        scores: By metric.
        flagged: The model's safety checker blackened the picture.
        fit_seconds: None for a baseline.
        edit_seconds: Per picture; None where nothing was sampled.
        artifact_bytes: None for a baseline.
        versions: Of the libraries.
        per_sentence: The fit serves this edit's prompt alone.
    """

    suite: Mapping[str, str | int]
    arm: str
    options: Mapping[str, Value]
    settings: Mapping[str, Value]
    subject: str
    edit: str
    seed: int
    caption: str
    prompt: str
    scores: Scores
    flagged: bool
    fit_seconds: float | None
    edit_seconds: float | None
    artifact_bytes: int | None
    versions: Mapping[str, str]
    per_sentence: bool = False

    def save(self, path: Path) -> None:
        """Write the file atomically; HiperError for a score that is neither finite nor None."""
        for name, value in self.scores.items():
            if value is not None and not math.isfinite(value):
                raise HiperError(
                    f"the suite scored {name} of {self.arm}, {self.subject}, {self.edit} as {value}"
                )
        _write(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> CellResult:
        """Read what `save` wrote; OptionError for anything else."""
        return _read(path, cls)


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """What all cells of a folder have in common.

    Attributes:
        suite: Its identity.
        backbone: Its name.
        weights_sha256: Of all components.
        device: Its type.
        dtype: Of the weights.
        seed: Of the suite and of the first picture.
        model: The model's key; empty in records of earlier releases.
    """

    suite: Mapping[str, str | int]
    backbone: str
    weights_sha256: str
    device: str
    dtype: str
    seed: int
    model: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a folder holds once its run is complete.

    Attributes:
        identity: What all cells have in common.
        metrics: Of the suite.
        arms: Canonical text to resolved options.
        slugs: Canonical text to the name of the arm's folder.
        subjects: Name to edits.
        seeds: Pictures per edit.
    """

    identity: RunKey
    metrics: Mapping[str, Metric]
    arms: Mapping[str, Mapping[str, Value]]
    slugs: Mapping[str, str]
    subjects: Mapping[str, Sequence[str]]
    seeds: int

    def paths(self, folder: Path, arm: str, subject: str) -> dict[tuple[str, int], Path]:
        """Return the JSON file of each cell, (edit, seed), of one arm and subject."""
        place = folder / "cells" / self.slugs[arm] / subject
        first = self.identity.seed
        return {
            (edit, seed): place / f"{edit}-{seed}.json"
            for edit in self.subjects[subject]
            for seed in range(first, first + self.seeds)
        }

    def save(self, folder: Path) -> None:
        """Write `run.json` atomically."""
        _write(folder / RUN, {"schema": SCHEMA, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Read `run.json`; OptionError when there is none, or it is none of ours."""
        path = folder / RUN
        if not path.is_file():
            raise OptionError(f"no {RUN} in {str(folder)!r}; name the folder that hiper bench run wrote to")
        read: Any = _read(path, cls)
        metrics = {name: Metric(**values) for name, values in read.metrics.items()}
        run = cls(**{**vars(read), "identity": RunKey(**read.identity), "metrics": metrics})
        if not _is_drawable(run):
            raise _damaged(path)
        return run


def joined(folder: Path, new: Run) -> Run:
    """Return what the folder will hold: `new`, and what earlier runs of the same identity were to draw.

    Raises:
        OutputError: The folder belongs to another suite, model or seed; the message says what differs.
    """
    if not (folder / RUN).exists():
        return new
    old = Run.load(folder)
    differences = [*_differences(old.identity, new.identity), *_changed_arms(old, new)]
    if differences:
        raise OutputError(
            f"{str(folder)!r} holds another run: {'; '.join(differences)}; choose another folder (--out)"
        )
    return replace(
        new,
        arms={**old.arms, **new.arms},
        slugs={**old.slugs, **new.slugs},
        subjects={**old.subjects, **new.subjects},
        seeds=max(old.seeds, new.seeds),
    )


def _differences(old: RunKey, new: RunKey) -> list[str]:
    if not old.model:
        return [
            "it was begun by an earlier release of hiper, which wrote down less of what decides a picture"
        ]
    ours, theirs = _flat(new), _flat(old)
    names = dict.fromkeys([*theirs, *ours])
    return [
        f"{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here"
        for name in names
        if theirs.get(name) != ours.get(name)
    ]


def _flat(identity: RunKey) -> dict[str, object]:
    plain = {each.name: getattr(identity, each.name) for each in fields(identity)}
    suite, model = plain.pop("suite"), plain.pop("model")
    return {**{f"suite {name}": value for name, value in suite.items()}, **model, **plain}


def _changed_arms(old: Run, new: Run) -> list[str]:
    """Name the arms whose options have changed, by a later release or other defaults."""
    return [
        f"arm {arm} has {name}={old.arms[arm].get(name)} there and {name}={options.get(name)} here"
        for arm, options in new.arms.items()
        if arm in old.arms
        for name in dict.fromkeys([*old.arms[arm], *options])
        if old.arms[arm].get(name) != options.get(name)
    ]


def _write(path: Path, record: Mapping[str, object]) -> None:
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(path, f"{text}\n".encode(), overwrite=True)


def _read(path: Path, kind: type[R]) -> R:
    try:
        record = parse_json(read_text(path, _MAX_BYTES))
    except OSError as error:
        raise OptionError(f"{str(path)!r} cannot be read: {error.strerror}; check its permissions") from error
    except (ValueError, RecursionError, OptionError) as error:
        raise _damaged(path) from error
    if isinstance(record, dict) and record.pop("schema", SCHEMA) != SCHEMA:
        raise OptionError(f"{str(path)!r} was written by a later release of hiper; use that one")
    if not conforms(record, kind):
        raise _damaged(path)
    return kind(**record)


def _is_drawable(run: Run) -> bool:
    """Whether all names are safe as those of files below the folder, and the seeds are few enough to count."""
    names = [*run.slugs.values(), *run.subjects, *(edit for edits in run.subjects.values() for edit in edits)]
    safe = all(
        Path(name).name == name and "\0" not in name and len(name.encode(errors="replace")) <= _LONGEST_NAME
        for name in names
    )
    return safe and run.slugs.keys() == run.arms.keys() and 1 <= run.seeds <= _MAX_SEEDS


def _damaged(path: Path) -> OptionError:
    return OptionError(f"{str(path)!r} is damaged, or no record of a benchmark; delete it and run again")
