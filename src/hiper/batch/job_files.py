"""Job files: JSON Lines, CSV with a header, or a folder where each picture has its caption beside it."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hiper.batch.jobs import Asked, Defaults, Refused, job
from hiper.errors import OptionError, UserError
from hiper.files import is_hidden, parse_json, picture_suffixes, read_text

MAX_BYTES = 1_000_000_000
"""Of a job file; a million jobs take some 300 MB."""

_SEED_DIGITS = len(str(2**63))
LIST_MARK = "|"
"""Between the entries of a list in a cell of a CSV file."""

CAPTIONS = (".txt", ".caption")
"""Endings of the files that hold a picture's caption."""
DELIMITERS = (",", ";", "\t")
"""Between the cells of a CSV file: spreadsheets write the second one where numbers have a decimal comma."""

_LISTS = ("sentences", "seeds")


def read_jobs(path: Path, defaults: Defaults) -> list[Asked]:
    """Read all jobs of a .jsonl, .csv or .tsv file or of a folder.

    Args:
        path: The file or folder.
        defaults: Values for what a job leaves out.

    Returns:
        A job, or the reason why there is none, for each line.

    Raises:
        OptionError: The file cannot be read, or none of its lines is a job.
    """
    path = path.absolute()  # workers may have another working directory
    if path.is_dir():
        asked = list(_folder(path, defaults))
    else:
        readers: Mapping[str, Callable[[str, Path, Defaults], Iterator[Asked]]] = {
            ".jsonl": _json_lines,
            ".csv": _csv,
            ".tsv": _csv,
        }
        if path.suffix.lower() not in readers:
            raise OptionError(
                f"jobs are in {str(path)!r}; allowed are a .jsonl file, a .csv file and a folder"
            )
        with _long_cells():
            asked = list(readers[path.suffix.lower()](_text(path), path.parent, defaults))
    if not asked:
        raise OptionError(
            f"{str(path)!r} holds no job; a line is a job, in a folder a picture with a .txt beside it, or a .caption"
        )
    if all(isinstance(each, Refused) for each in asked):
        first = asked[0]
        assert isinstance(first, Refused)
        raise OptionError(f"{str(path)!r} holds no job that can be done; {first.name}: {first.reason}")
    return asked


def _text(path: Path) -> str:
    try:
        return read_text(path, MAX_BYTES)
    except OSError as error:
        raise OptionError(f"{str(path)!r} cannot be read: {error.strerror}; check the path") from error
    except OptionError as error:
        raise OptionError(f"{str(path)!r} cannot be read: {error}") from error


def _json_lines(text: str, place: Path, defaults: Defaults) -> Iterator[Asked]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _asked(f"line {number}", line, partial(_line, line, defaults, place))


def _line(line: str, defaults: Defaults, place: Path) -> Asked:
    return job(_object(line), defaults, place)


def _row(row: Mapping[str | None, Any], defaults: Defaults, place: Path) -> Asked:
    return job(_unflattened(row), defaults, place)


def _object(line: str) -> dict[str, Any]:
    try:
        value = parse_json(line, _unrepeated)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"no JSON ({error}); write one object per line") from error
    if not isinstance(value, dict):
        raise OptionError("no JSON object; write one per line")
    return value


def _unrepeated(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; OptionError where a name has two values, of which one would go unheard."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise OptionError(f"{name!r} is given twice; keep one of them")
        values[name] = value
    return values


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let a cell be longer than 128 KiB, so that only its own line is refused."""
    before = csv.field_size_limit(MAX_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv(text: str, place: Path, defaults: Defaults) -> Iterator[Asked]:
    first, named, rest = text.partition("\n")
    named = first.strip(" ").casefold().removeprefix("sep=") if first.casefold().startswith("sep=") else ""
    skipped = int(bool(named))
    text = rest if named else text
    reader = csv.DictReader(
        io.StringIO(text, newline=""),
        strict=True,
        skipinitialspace=True,
        delimiter=_delimiter(text, named),
    )
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        _unrepeated((name, None) for name in reader.fieldnames if name)
        if "image" not in reader.fieldnames:
            raise OptionError(
                f"the first line of a CSV file names its columns, and reads {text.partition(chr(10))[0][:80]!r};"
                " image and caption are needed, with commas, semicolons or tabs between them"
            )
        for row in reader:
            line = json.dumps(row, default=str)
            if any(row.values()):  # a spreadsheet goes on with rows of nothing
                yield _asked(f"line {reader.line_num + skipped}", line, partial(_row, row, defaults, place))
    except csv.Error as error:
        raise OptionError(f"line {reader.line_num + skipped} is no CSV: {error}") from error


def _delimiter(text: str, named: str) -> str:
    """What a line sep=; names, as Excel writes it, else what parts the first line into columns, image among them."""
    if len(named) == 1:
        return named
    head = text.partition("\n")[0]
    parted = {each: [name.strip(' "') for name in head.rstrip().split(each)] for each in DELIMITERS}
    return next((each for each, names in parted.items() if "image" in names), DELIMITERS[0])


def _unflattened(row: Mapping[str | None, Any]) -> dict[str, Any]:
    """Columns options.NAME and edit.NAME make objects, lists are split; an empty cell says nothing."""
    if None in row:
        raise OptionError(
            f"more cells than columns: {row[None]!r}; quote cells that hold what parts the columns"
        )
    values: dict[str, Any] = {}
    for name, cell in row.items():
        outer, dot, inner = str(name).partition(".")
        if not cell:
            continue
        if dot and isinstance(values.setdefault(outer, {}), dict):
            values[outer][inner] = cell
        else:
            values[outer] = _entries(outer, cell) if outer in _LISTS else cell
    return values


def _entries(name: str, cell: str) -> list[Any]:
    entries = [entry.strip() for entry in cell.split(LIST_MARK)]
    return [_seed(each) for each in entries] if name == "seeds" else entries


def _seed(entry: str) -> int | str:
    """Python refuses to read numbers of thousands of digits: longer ones stay texts, which are refused later."""
    return int(entry) if entry.isdecimal() and len(entry) <= _SEED_DIGITS else entry


def _folder(folder: Path, defaults: Defaults) -> Iterator[Asked]:
    """dog.png and dog.txt make a job, the convention of training scripts for Stable Diffusion."""
    try:
        files = sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_file())
    except OSError as error:
        raise OptionError(f"{str(folder)!r} cannot be read: {error.strerror}; check the path") from error
    texts: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if path.suffix.casefold() in CAPTIONS:
            texts[path.stem.casefold()].append(path)
    for picture in files:
        if picture.suffix.casefold() in picture_suffixes():
            captions = texts[picture.stem.casefold()]
            yield _asked(picture.name, picture.name, partial(_pictured, picture, captions, defaults))


def _pictured(picture: Path, captions: Sequence[Path], defaults: Defaults) -> Asked:
    own = [path for path in captions if path.stem == picture.stem] or captions
    if not own:
        raise OptionError(f"no caption; write it to {picture.with_suffix('.txt').name!r}")
    found = {_text(path).strip(): path.name for path in own}
    if len(found) > 1:
        names = " and ".join(map(repr, found.values()))
        raise OptionError(f"two captions, {names}, which differ; keep one of them")
    values = {"image": picture.name, "name": picture.name, "caption": next(iter(found))}
    return job(values, defaults, picture.parent)


def _asked(name: str, line: str, read: Callable[[], Asked]) -> Asked:
    try:
        return read()
    except UserError as error:
        return Refused(name=name, text=line, reason=OptionError(str(error)))
