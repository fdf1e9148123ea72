"""A command under way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated

from typer import Option

from hiper.cli.console import Console, console
from hiper.cli.progress import Report, progress
from hiper.cli.stopping import Stop, catch_signals

Deterministic = Annotated[bool, Option(help="Bit-identical results on a GPU too; slower.")]


@dataclass(kw_only=True)
class Session:
    """How a command speaks and computes, and whether it has been asked to stop.

    Attributes:
        arguments: The words of the command line.
        console: Where it prints, while the session is open.
        stop: The signal that has arrived, while the session is open.
    """

    deterministic: Deterministic = False
    json: Annotated[bool, Option(help="Print one JSON object to stdout.")] = False
    quiet: Annotated[bool, Option(help="Print errors only.")] = False
    arguments: Sequence[str] = ()
    console: Console = field(init=False)
    stop: Stop = field(init=False)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Turn warnings into notes, and handle Ctrl-C and SIGTERM."""
        with (
            catch_signals() as self.stop,
            console(json=self.json, quiet=self.quiet) as self.console,
            self._arithmetic(),
        ):
            yield

    def progress(self) -> AbstractContextManager[Report]:
        """Show progress on stderr while the block runs."""
        return progress(quiet=self.quiet)

    def _arithmetic(self) -> AbstractContextManager[None]:
        if not self.deterministic:
            return nullcontext()
        from hiper.options import determinism

        return determinism.deterministic()
