"""Where results go: a folder, or an object store that fsspec reaches by a URL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, final

from hiper import files
from hiper.errors import OutputError

LOCK = "batch"


class Store(ABC):
    """Files by relative names with "/" between folders; OutputError where one cannot be read or written.

    Attributes:
        place: What `open_store` opens it by, also from another working directory.
    """

    place: str

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Return the bytes of all files, by name."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all, also over another one."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def sweep(self, folder: str) -> None:
        """Remove temporary files of killed processes from a folder, to which only the caller writes."""

    @abstractmethod
    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other batches out meanwhile, where the store can."""


def open_store(place: str) -> Store:
    """Return the store at a path, or at a URL such as s3://bucket/folder; nothing is written yet."""
    if "://" not in place:
        return Folder(Path(place).absolute())
    if place.startswith("file://"):
        return Folder(Path(place.removeprefix("file://")))
    return Remote(place)


@final
class Folder(Store):
    """A folder of a file system, made when the first file is written to it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.place = folder, str(folder)

    def sizes(self) -> dict[str, int]:
        found = (path for path in self._folder.rglob("*") if path.is_file() and self._is_ours(path))
        return {path.relative_to(self._folder).as_posix(): path.stat().st_size for path in found}

    def _is_ours(self, path: Path) -> bool:
        """Whether a file is in the folder itself; rglob enters no links to folders, so only links are resolved."""
        return not path.is_symlink() or files.is_file_within(path, self._folder)

    def exists(self, name: str) -> bool:
        return (self._folder / name).is_file()

    def read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise OutputError(f"cannot read {str(self._folder / name)!r}: {error.strerror}") from error

    def write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        files.make_folder(path.parent, within=self._folder)
        files.atomic_write(path, data, overwrite=True)

    def remove(self, name: str) -> None:
        path = self._folder / name
        files.check_within(path.parent, self._folder)
        path.unlink(missing_ok=True)

    def sweep(self, folder: str) -> None:
        files.check_within(self._folder / folder, self._folder)
        files.remove_leftovers(self._folder / folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        files.make_folder(self._folder)
        with files.lock(self._folder / LOCK):
            yield


@final
class Remote(Store):
    """An object store. One put per file, which such stores make visible as a whole; they have no locks."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._system, self._root = fsspec.core.url_to_fs(url)
        except Exception as error:  # some drivers connect here, each with errors of its own
            raise OutputError(
                f"{url!r} cannot be used: {_reason(error)}; give a folder or a URL fsspec knows"
            ) from error
        self.place = self._url = url

    def sizes(self) -> dict[str, int]:
        self._system.invalidate_cache()
        found: dict[str, Any] = self._call(partial(self._system.find, detail=True), self._root)
        return {name.removeprefix(self._root).lstrip("/"): entry["size"] for name, entry in found.items()}

    def exists(self, name: str) -> bool:
        self._system.invalidate_cache()
        return bool(self._call(self._system.exists, f"{self._root}/{name}"))

    def read(self, name: str) -> bytes:
        data: bytes = self._call(self._system.cat_file, f"{self._root}/{name}")
        return data

    def write(self, name: str, data: bytes) -> None:
        self._call(self._system.pipe_file, f"{self._root}/{name}", data)

    def remove(self, name: str) -> None:
        if self.exists(name):
            self._call(self._system.rm_file, f"{self._root}/{name}")

    def sweep(self, folder: str) -> None:
        """A put leaves nothing behind."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def _call(self, operation: Any, *arguments: Any) -> Any:
        try:
            return operation(*arguments)
        except Exception as error:  # of whatever driver fsspec has for the URL
            raise OutputError(
                f"{self._url!r} failed: {_reason(error)}; check its address and your rights"
            ) from error


def _reason(error: Exception) -> str:
    words = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return str(words)[:300]
