"""What the user reads: results on stdout; notes and errors, one line each, on stderr."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO, final

from hiper.errors import HiperWarning, OutputError


@final
class Console:
    """The output of one command; errors are always printed.

    Attributes:
        json: One object on stdout instead of lines.
        quiet: No lines and no notes.
    """

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self.json, self.quiet = json, quiet
        self._notes: list[str] = []

    def note(self, *texts: str) -> None:
        """Print what the user should know, once, also when it comes again without the name before it."""
        for text in texts:
            if any(note == text or note.endswith(f": {text}") for note in self._notes):
                continue
            self._notes.append(text)
            if not self.quiet:
                write_line(sys.stderr, f"hiper: note: {text}")

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes so far."""
        return tuple(self._notes)

    def result(self, record: Mapping[str, object], lines: Iterable[str]) -> None:
        """Print what was done: the record and the notes as JSON, NaN and infinity as null, or else the lines."""
        if self.json:
            text = json.dumps({**record, "notes": self._notes})
            write_line(sys.stdout, json.dumps(json.loads(text, parse_constant=lambda _: None)))
        elif not self.quiet:
            for line in lines:
                write_line(sys.stdout, line)


@contextmanager
def console(*, json: bool = False, quiet: bool = False) -> Iterator[Console]:
    """Yield a console; hiper's warnings become its notes, each once; those of the libraries are dropped."""
    output = Console(json=json, quiet=quiet)
    said: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if str(message) not in said:
            said.add(str(message))
            output.note(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", HiperWarning)
        warnings.showwarning = show
        yield output


def prepare_streams() -> None:
    """Let no character fail: what the terminal's encoding lacks is printed as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_error(text: str) -> None:
    """Print one line to stderr."""
    write_line(sys.stderr, f"hiper: {text}")


def write_line(stream: TextIO | None, text: str) -> None:
    """Write one line, at once and without control characters: captions come from strangers' files.

    A closed reader (`| head -1`) is no error, and a log on stderr that cannot be written does not stop the work.

    Raises:
        OutputError: A result on stdout cannot be written.
    """
    if stream is None:  # closed by whoever started us
        return
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.splitlines()))
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except OSError as error:
        _discard(stream)
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise OutputError(
                f"the output cannot be written: {error.strerror}; give it another place"
            ) from error


def _discard(stream: TextIO) -> None:
    """Send the rest, also what is still buffered, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def table(values: Mapping[str, object]) -> Iterator[str]:
    """One line per name, the values below each other; what is empty is left out."""
    width = max(map(len, values)) + 2
    for name, value in values.items():
        text = _shown(value)
        if text:
            yield f"{name:{width}}{text}"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:z.4g}"
    return "" if value is None else str(value)
