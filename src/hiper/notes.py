"""Notes: what was changed on the way in without being asked for, gathered now and printed at the end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from hiper.errors import HiperWarning


@final
class Notes:
    """Texts in the order they were added, each once; some are also worth a warning."""

    def __init__(self) -> None:
        self._texts: dict[str, bool] = {}

    def add(self, text: str, *, warn: bool = False) -> None:
        """Add one line; with `warn` it is also issued as a `HiperWarning` by `issue`."""
        self._texts.setdefault(text, warn)

    @property
    def texts(self) -> tuple[str, ...]:
        """All lines, the harmless ones and those worth a warning."""
        return tuple(self._texts)

    def issue(self, name: str = "") -> None:
        """Issue the serious lines as `HiperWarning`, each after the `name` of what it is about."""
        for text, warn in self._texts.items():
            if warn:
                # The level of a caller of open_image; one that comes by way of Subject is a level further.
                warnings.warn(f"{name}: {text}" if name else text, HiperWarning, stacklevel=4)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Gather every `HiperWarning` of the block, each once, instead of showing it; other warnings are dropped."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", HiperWarning)
        try:
            yield notes
        finally:
            notes += dict.fromkeys(str(each.message) for each in caught)
