"""Lock files: held by `flock`, on Windows by `locking`, where there is neither by their existence.

No link is followed, and only a lock of ours is written to: the file may lie in a stranger's folder. filelock, which
huggingface_hub brings, leaves the file behind, and names no holder.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

_LONGEST = 20
"""Bytes of a process number, which is all that a lock file holds."""

_FAR = 1 << 30
"""Windows keeps others from reading the byte that is locked: one that no lock file reaches."""

_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system answers that can neither lock a file nor sync a folder."""


def _module(name: str) -> Any:
    """Import a module of the standard library that not every system has; None where it is missing."""
    try:
        return import_module(name)
    except ImportError:
        return None


_FCNTL, _MSVCRT = _module("fcntl"), _module("msvcrt")


class HeldError(Exception):
    """Another process holds the lock.

    Attributes:
        holder: Its number, or "unknown".
        may_be_dead: The system cannot say whether it is alive.
    """

    def __init__(self, holder: str, *, may_be_dead: bool) -> None:
        super().__init__(holder)
        self.holder, self.may_be_dead = holder, may_be_dead


def acquire(path: Path) -> int:
    """Create and hold a lock file, which holds our process number.

    Returns:
        Its handle, for `release`.

    Raises:
        HeldError: Another process holds it, or has left it where the system cannot say.
        OSError: It cannot be created, or there is something else under its name.
    """
    while True:
        with ExitStack() as cleanup:
            handle, created = _opened(path)
            cleanup.callback(os.close, handle)
            holder = _holder(handle)
            if not _hold(handle, created=created, holder=holder):
                raise HeldError(holder or "unknown", may_be_dead=False)
            if not _stands_at(path, handle):  # its last holder removed it between our two steps
                continue
            cleanup.callback(path.unlink)  # a full disk may not take the number
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, str(os.getpid()).encode())
            cleanup.pop_all()
            return handle


def release(path: Path, handle: int) -> None:
    """Remove the lock file while it is still ours, and release it."""
    if os.name == "nt":  # removes no file that is open, which saves the next holder's
        os.close(handle)
    with suppress(OSError):
        path.unlink()
    if os.name != "nt":
        os.close(handle)


def _opened(path: Path) -> tuple[int, bool]:
    """Open the lock file, links not followed; return its handle, and whether we have created it."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "there is a symbolic link")
        with suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
        with suppress(FileNotFoundError):  # removed since
            return os.open(path, flags), False


def _holder(handle: int) -> str:
    """Return the number in a lock file; OSError for a file that is none."""
    status = os.fstat(handle)
    number = (
        os.read(handle, _LONGEST) if stat.S_ISREG(status.st_mode) and status.st_size <= _LONGEST else b"?"
    )
    if number and not number.isdigit():
        raise OSError(errno.EEXIST, "there is a file that is no lock")
    return number.decode()


def _hold(handle: int, *, created: bool, holder: str) -> bool:
    """Lock an open file until it is closed or the process dies; False where another process has it."""
    try:
        if _FCNTL is not None:
            _FCNTL.flock(handle, _FCNTL.LOCK_EX | _FCNTL.LOCK_NB)
        elif _MSVCRT is not None:
            os.lseek(handle, _FAR, os.SEEK_SET)
            _MSVCRT.locking(handle, _MSVCRT.LK_NBLCK, 1)
        elif not created:
            raise OSError(errno.ENOSYS, "no locks here")
    except OSError as error:
        if error.errno in UNSUPPORTED and not created:
            raise HeldError(holder or "unknown", may_be_dead=True) from error
        if error.errno in _TAKEN:
            return False
        if error.errno not in UNSUPPORTED:
            raise
    return True


def _stands_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
