"""From words on the command line to values, with errors that say what arrived and what is allowed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import typer

from hiper.errors import OptionError
from hiper.files import picture_suffixes

LARGEST_SEED = 2**63 - 1


def with_joined_options(arguments: Sequence[str]) -> list[str]:
    """Write each `-o name value` as `-o name=value`, so that both are understood."""
    joined: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            return [*joined, argument, *waiting]
        is_name = bool(joined) and joined[-1] in ("-o", "--option") and "=" not in argument
        joined.append("=".join([argument, *islice(waiting, int(is_name))]))
    return joined


def method_options(pairs: Iterable[str] | None, seed: int | None = None) -> dict[str, object]:
    """Read `name=value` pairs and `--seed`; OptionError for one without a value or given twice."""
    values: dict[str, object] = {} if seed is None else {"seed": seed}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise OptionError(f"-o got {pair!r}; write -o name=value")
        if name in values:
            raise OptionError(f"option {name} is given twice; give it once")
        values[name] = value.strip()
    return values


def one_picture(others: Sequence[str] | None) -> None:
    """Raise OptionError for what follows the one picture that is learnt."""
    if others:
        refuse_pictures(others)
        raise OptionError(
            f"unexpected {others[0]!r}; one picture is learnt, and --caption says what it shows"
        )


def refuse_pictures(texts: Sequence[str]) -> None:
    """Raise OptionError where a picture is among them, which is another one of the subject."""
    for text in texts:
        if Path(text).suffix.lower() in picture_suffixes() and (" " not in text or os.path.isfile(text)):  # noqa: PTH113
            raise OptionError(
                f"{text!r} is a second picture; fit several of one subject one by one, each to a file of its own,"
                " and put these together by hiper average A B --out FILE"
            )


def whole(low: float | None, high: float | None) -> Callable[[str], int]:
    """Return a reader of whole numbers from `low` to `high`."""
    within = f" from {low}" if low is not None else ""
    within += f" to {high}" if high is not None else " upwards"

    def read(text: str) -> int:
        with suppress(ValueError):
            number = int(text)
            if (low is None or number >= low) and (high is None or number <= high):
                return number
        raise typer.BadParameter(f"{text!r}; allowed are whole numbers{within}")

    return read


def real(text: str) -> float:
    """Read a finite number, with a decimal point whatever the locale."""
    with suppress(ValueError):
        number = float(text)
        if math.isfinite(number):
            return number
    raise typer.BadParameter(f"{text!r}; allowed are finite numbers, such as 0.8")
