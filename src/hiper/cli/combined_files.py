"""Several files of what was learnt: combined for `hiper edit`, or averaged by `hiper average`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hiper import files
from hiper.cli.requests import Learnt, Session
from hiper.errors import OptionError

if TYPE_CHECKING:
    from hiper.artifacts import Artifact


def load_learnt(learnt: Learnt, strength: float | None) -> Artifact:
    """Load the one file, or several combined; `strength` is the first one's, None its own."""
    from hiper.artifacts import Artifact, combine

    _check_strengths(learnt)
    artifact = Artifact.load(learnt.file)
    if not learnt.is_several:
        return artifact
    others = [Artifact.load(path) for path in learnt.others]
    given: Sequence[float | None] = learnt.other_strengths if learnt.other_strengths else [None] * len(others)
    return combine(
        [artifact, *others],
        strength=[strength, *given],
        negative=Artifact.load(learnt.negative) if learnt.negative is not None else None,
        negative_strength=learnt.negative_strength,
    )


def average_files(
    session: Session, paths: Sequence[Path], weights: Sequence[float] | None, out: Path, *, overwrite: bool
) -> None:
    """Write the average of several files."""
    from hiper.artifacts import Artifact, average

    files.check_writable(out, overwrite=overwrite)
    with files.lock(out):
        artifact = average([Artifact.load(path) for path in paths], weights=weights)
        artifact.save(out, overwrite=overwrite)
    session.console.result({"artifact": str(out), **artifact.describe()}, [str(out)])


def _check_strengths(learnt: Learnt) -> None:
    if len(learnt.other_strengths) not in (0, len(learnt.others)):
        raise OptionError(
            f"{len(learnt.other_strengths)} --with-strength for {len(learnt.others)} --with;"
            " give one for each, or none"
        )
    if learnt.negative_strength is not None and learnt.negative is None:
        raise OptionError("--negative-strength is given without --negative; name a file by --negative")
