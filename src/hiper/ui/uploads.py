"""Files that visitors have uploaded: the page takes each at once, and what nobody takes does not pile up."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

_SECONDS = 600.0
"""After which an upload that nobody has taken is removed."""


@final
class Uploads:
    """paths: what the server has taken in, which it adds to; most: bytes that may lie there.

    Beyond `most` the oldest go first.
    """

    def __init__(self, *, most: int) -> None:
        self.paths: set[str] = set()
        self._most = most
        self._pruning = threading.Lock()

    @contextmanager
    def taken(self, path: str | None) -> Iterator[None]:
        """Remove an upload once the block, which reads it, has ended. Other files are left alone."""
        try:
            yield
        finally:
            if path in self.paths:
                self._remove(path)

    def prune(self) -> None:
        """Remove what has lain there for too long, and the oldest of what is too much."""
        with self._pruning:
            there = sorted(
                (path.stat().st_mtime, path) for path in map(Path, tuple(self.paths)) if path.is_file()
            )
            left = sum(path.stat().st_size for _, path in there)
            for changed, path in there:
                size = path.stat().st_size
                if left > self._most or time.time() - changed > _SECONDS:
                    self._remove(str(path))
                    left -= size

    def _remove(self, path: str) -> None:
        self.paths.discard(path)
        shutil.rmtree(Path(path).parent, ignore_errors=True)  # a folder of its own
