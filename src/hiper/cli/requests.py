"""What the user asked for, as the commands hand it to the jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hiper.cli.console import Console, console
from hiper.cli.stopping import Stop, catch_signals


@dataclass(frozen=True, kw_only=True)
class Session:
    """One command under way: where it speaks, and whether it has been asked to stop."""

    console: Console
    stop: Stop


@contextmanager
def session(*, json: bool, quiet: bool, deterministic: bool = False) -> Iterator[Session]:
    """Start a command: warnings become notes, Ctrl-C and SIGTERM are handled."""
    with catch_signals() as stop, console(json=json, quiet=quiet) as output, _arithmetic(deterministic):
        yield Session(console=output, stop=stop)


def _arithmetic(deterministic: bool) -> AbstractContextManager[None]:
    if not deterministic:
        return nullcontext()
    from hiper.options import determinism

    return determinism.deterministic()


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where a model computes and in which number format, what is given for less memory, the pictures' side, and what
    the model predicts.

    None leaves the choice to hiper; see `load_backbone`.
    """

    device: str | None
    dtype: str | None
    quantise: str | None = None
    memory: str = "auto"
    resolution: int | None = None
    prediction_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """Which picture is to be learnt, by which model, and how."""

    backbone: str
    image: Path
    caption: str
    captioner: str | None
    mask: Path | None
    frame: int | None
    background: str
    allow_truncated: bool
    method: str
    preset: str
    options: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """Files of what was learnt: the first, those that appear beside it, and one to keep away from."""

    file: Path
    others: Sequence[Path] = ()
    other_strengths: Sequence[float] = ()
    negative: Path | None = None
    negative_strength: float | None = None

    @property
    def is_several(self) -> bool:
        """Whether the files are to be combined."""
        return bool(self.others) or self.negative is not None


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """What is to be drawn; None takes the artifact's own setting.

    metadata: pictures tell how they were drawn; carry: and take the artifact with them
    report: the page to write, and command: the words it says were given
    """

    prompts: Sequence[str]
    images: int
    seed: int
    strength: float | None
    guidance: float | None
    steps: int | None
    scheduler: str | None
    height: int | None
    width: int | None
    negative_prompt: str
    keep: float | None
    batch_size: int
    metadata: bool
    carry: bool
    report: Path | None
    command: Sequence[str]
    overwrite: bool
