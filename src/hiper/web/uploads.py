"""Uploaded files: each is removed when it has been read, and what nobody reads does not pile up."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

_SECONDS = 600.0
"""After which an upload that nobody has taken is removed."""


@final
class Uploads:
    """Uploads that wait to be read; beyond a number of bytes the oldest are removed, broken ones as well.

    Args:
        folder: Where the server writes uploads, before it moves whole ones into a folder named by their content.
        most: Bytes that may wait.

    Attributes:
        paths: Whole uploads; the server adds to it.
    """

    def __init__(self, folder: Path, *, most: int) -> None:
        self.paths: set[str] = set()
        self._folder, self._most = folder, most
        self._pruning = threading.Lock()

    @contextmanager
    def taken(self, path: str | None) -> Iterator[None]:
        """Remove an upload once the block, which reads it, has ended; other files are left alone."""
        try:
            yield
        finally:
            if path in self.paths:
                self._remove(path)

    def prune(self) -> None:
        """Remove what is too old, and the oldest of what is too much."""
        with self._pruning:
            there = sorted(self._there())
            left = sum(size for _, size, _ in there)
            for changed, size, path in there:
                if left > self._most or time.time() - changed > _SECONDS:
                    self._remove(path)
                    left -= size

    def _there(self) -> Iterator[tuple[float, int, str]]:
        """Yield when each file was written, its bytes and its path; one may go at any time."""
        unfinished = map(str, self._folder.iterdir()) if self._folder.is_dir() else ()
        for path in {*self.paths, *unfinished}:
            with suppress(OSError):
                status = Path(path).stat()
                if stat.S_ISREG(status.st_mode):
                    yield status.st_mtime, status.st_size, path

    def _remove(self, path: str) -> None:
        """Remove an upload; the same content under another name is in the same folder, and stays."""
        self.paths.discard(path)
        with suppress(OSError):
            Path(path).unlink()
            if Path(path).parent != self._folder:
                Path(path).parent.rmdir()
