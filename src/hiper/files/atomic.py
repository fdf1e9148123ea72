"""Atomic writes and locks.

Everything hiper writes goes through `atomic_write`. A reader sees the old file or the new one, never half of
one, after a full disk, a kill or a power cut alike. A folder may be a stranger's: no symbolic link in it is
followed out of it, and locks have names of their own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hiper.errors import OutputError
from hiper.files import locks

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
"""Names that Windows keeps for devices, whatever their ending."""

_LONGEST_LOCKED = 200
"""Bytes of a file name above which its lock is named by a hash."""


class InUseError(OutputError):
    """Another process works on the same output."""


def atomic_write(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a file in one step: a temporary file beside it, fsync, rename, fsync of the folder.

    A symbolic link to a file of the same folder stays one, and that file is replaced. Whatever fails, the old
    file is untouched and nothing new is left behind (after SIGKILL or a power cut: at most a hidden
    `.hiper-*.tmp`).

    Args:
        path: Where the file is to be; its folder must exist.
        data: The whole content.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        OutputError: The file exists and `overwrite` is false, it is no ordinary file, or a link out of its
            folder; the folder is missing or cannot be written to, the disk is full.
    """
    with _explained(path, len(data)):
        target = _target(path, overwrite=overwrite)
        temporary = _temporary_beside(target)
        file = temporary.open("xb")
        try:
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _target(path, overwrite=overwrite)  # somebody may have been faster
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse now, before an hour of work, what `atomic_write` would refuse at its end.

    Creates and removes an empty file in the folder: permission bits do not show a read-only mount.

    Args:
        path: Where the file is to be.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        OutputError: As `atomic_write`, except that the room on the disk is not known yet.
    """
    with _explained(path, 1):
        probe = _temporary_beside(_target(path, overwrite=overwrite))
        probe.open("xb").close()
        probe.unlink()


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Be the only process that works on a file or folder while the block runs.

    The lock is a hidden file `.hiper-<name>.lock` beside it, which holds our process number for the message.
    The system releases it when the process dies, and the next process takes the file over.

    Args:
        path: What is worked on; it need not exist.

    Raises:
        InUseError: Another process holds the lock.
        OutputError: The lock cannot be created, or something else has its name.
    """
    with _explained(path, 1):
        beside = _lock_beside(_followed(path))
    with _explained(beside, 1):
        try:
            handle = locks.acquire(beside)
        except locks.HeldError as error:
            left = f"; if that one is gone, remove {str(beside)!r}" if error.may_be_dead else ""
            raise InUseError(
                f"{str(path)!r} is in use by process {error.holder}; wait for it, or choose another name{left}"
            ) from error
    try:
        yield
    finally:
        locks.release(beside, handle)


def safe_slug(text: str, *, limit: int = 80) -> str:
    """Turn any text into a part of a file name: letters and digits of every script, and single hyphens.

    Args:
        text: A prompt, a title; may hold slashes, emoji, control characters, anything.
        limit: At most this many bytes of UTF-8 (file systems count bytes); at least 16.

    Returns:
        The slug, never empty: a text without letters or digits gives `text-` and eight digits of its hash.
    """
    plain = unicodedata.normalize("NFKC", text)
    words = "".join(c if c.isalnum() else " " for c in plain).split()
    slug = "-".join(words).encode()[:limit].decode(errors="ignore").rstrip("-")
    if slug:
        return f"text-{slug}" if slug.casefold() in _RESERVED else slug
    return f"text-{_digest(text)[:8]}"


def distinct_slugs(texts: Sequence[str]) -> list[str]:
    """Return a `safe_slug` of each text, all different, also on a file system that ignores case."""
    slugs: dict[str, str] = {}
    for text in texts:
        slug = plain = safe_slug(text)
        number = 2
        while slug.casefold() in slugs:
            slug, number = f"{plain}-{number}", number + 1
        slugs[slug.casefold()] = slug
    return list(slugs.values())


def make_folder(folder: Path, *, within: Path | None = None) -> Path:
    """Create a folder and those above it, unless it exists.

    Args:
        folder: Where files are to go; may be a symbolic link.
        within: The folder that the user named, where `folder` is a name of ours below it.

    Returns:
        `folder`.

    Raises:
        OutputError: It cannot be created, or a symbolic link leads from `within` to another place.
    """
    try:
        if within is not None:
            check_within(folder, within)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot create the folder {str(folder)!r}: {reason}; choose another") from error
    return folder


def cache_dir() -> Path:
    """Return `$HIPER_CACHE`, else `$XDG_CACHE_HOME/hiper`, else `~/.cache/hiper`; not created here.

    Raises:
        OutputError: Neither variable is set and the user has no home folder.
    """
    if own := os.environ.get("HIPER_CACHE"):
        return Path(own)
    return user_folder("XDG_CACHE_HOME", ".cache", "set HIPER_CACHE to a folder for a cache")


def user_folder(variable: str, below_home: str, advice: str) -> Path:
    """Return hiper's folder for one kind of files, as the XDG base directory specification has it.

    Args:
        variable: Of the environment, which names the folder of all programs.
        below_home: That folder where the variable is not set.
        advice: What to do where the user has no home folder.

    Raises:
        OutputError: The variable is not set, and the user has no home folder.
    """
    try:
        return Path(os.environ.get(variable) or Path.home() / below_home) / "hiper"
    except RuntimeError as error:
        raise OutputError(f"no home folder; {advice}") from error


def is_file_within(path: Path, folder: Path) -> bool:
    """Whether `path` is a file in `folder`, also after its symbolic links are followed."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def check_within(path: Path, folder: Path) -> None:
    """Raise OutputError where a path below `folder` leads out of it by a symbolic link."""
    real = os.path.realpath(path)
    if not Path(real).is_relative_to(os.path.realpath(folder)):
        raise OutputError(
            f"{str(path)!r} leads out of its folder, to {real!r}, by a symbolic link; remove the link, or name that"
            " place itself"
        )


def _followed(path: Path) -> Path:
    """Follow the link that a path may be, within its folder."""
    if path.is_symlink():
        check_within(path, path.parent)
    return Path(os.path.realpath(path))


def _target(path: Path, *, overwrite: bool) -> Path:
    """Return the file to replace; OutputError says why it cannot be."""
    target = _followed(path)
    if not target.parent.is_dir():
        raise OutputError(f"no folder {str(path.parent)!r} to write to; create it, or choose another")
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise OutputError(f"{str(path)!r} is a folder; name a file in it, or move it away")
    if not stat.S_ISREG(mode):
        raise OutputError(f"{str(path)!r} is no ordinary file and will not be replaced; choose another name")
    if not overwrite:
        raise OutputError(f"{str(path)!r} exists; choose another name, or ask to overwrite it (--overwrite)")
    return target


def _temporary_beside(target: Path) -> Path:
    """Return a short, free, hidden name in the same folder: a rename is atomic within one file system only."""
    return target.with_name(f".hiper-{secrets.token_hex(8)}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder that nobody writes to at the moment."""
    for leftover in folder.glob(".hiper-*.tmp"):
        leftover.unlink(missing_ok=True)


def _lock_beside(target: Path) -> Path:
    name = target.name if len(os.fsencode(target.name)) <= _LONGEST_LOCKED else _digest(target.name)
    return target.with_name(f".hiper-{name}.lock")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can: Windows opens no folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in locks.UNSUPPORTED:
            raise
    finally:
        os.close(handle)


@contextmanager
def _explained(path: Path, size: int) -> Iterator[None]:
    """Turn an error of the system while it writes `size` bytes to `path` into an OutputError of one line."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a name with NUL or with half a character
        raise OutputError(_explanation(error, path, size)) from error


def _explanation(error: OSError | ValueError, path: Path, size: int) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOSPC:
        free = shutil.disk_usage(path.parent).free
        return (
            f"no room for {str(path)!r}: it needs {size} bytes, {free} are free in its folder; "
            "free some, or choose another folder"
        )
    if code in (errno.EDQUOT, errno.EFBIG):
        return f"{str(path)!r} needs {size} bytes, more than your quota or file size limit allows; raise it"
    if code == errno.ENAMETOOLONG:
        length = len(os.fsencode(path.name))
        return f"a file name of {length} bytes is too long ({path.name[:20]!r}...); choose one of at most 255"
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot write {str(path)!r}: {reason}; choose another place or mend its permissions"
