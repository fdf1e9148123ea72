"""Files that visitors have uploaded: the page takes each at once, and what nobody takes does not pile up."""

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
    """folder: where the server writes what comes in, before it moves what is whole into a folder of its content's own.

    paths: what it has taken in, which it adds to; most: bytes that may lie there. Beyond `most` the oldest go first, of
    what broke off or was asked for by nobody as well.
    """

    def __init__(self, folder: Path, *, most: int) -> None:
        self.paths: set[str] = set()
        self._folder, self._most = folder, most
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
        """The same content under another name, of another visitor maybe, is in the same folder and stays."""
        self.paths.discard(path)
        with suppress(OSError):
            Path(path).unlink()
            if Path(path).parent != self._folder:
                Path(path).parent.rmdir()
