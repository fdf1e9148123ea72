"""Recognise a lack of memory, however Python, a library or a device reports it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from hiper.errors import MemoryLimitError

ADVICE = (
    "out of memory; what was saved stays. Draw fewer pictures at a time (--batch-size 1), fit with fewer timesteps"
    " per step (-o batch=1), use a smaller picture, or close other programs"
)
"""What to do where a fit or an edit runs out of memory."""

_WORDS = (
    "out of memory",  # CUDA, ROCm, MPS, XPU
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",  # the same on Windows
    "cannot allocate memory",  # the system's own, by way of safetensors or mmap
    "alloc_failed",  # cuBLAS, cuDNN
    "could not create a primitive",  # oneDNN
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or the one that it was raised from, reports a lack of memory."""
    if error is None or isinstance(error, MemoryError | MemoryLimitError):
        return error is not None
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    of_library = isinstance(error, RuntimeError) or type(error).__name__ in ("SafetensorError", "OSError")
    if of_library and any(words in str(error).lower() for words in _WORDS):
        return True
    return is_out_of_memory(error.__cause__)


@contextmanager
def loading_in_memory(what: str) -> Iterator[None]:
    """Turn any report of a lack of memory into one that says how to load with less.

    Args:
        what: What is loaded, for the message.

    Raises:
        MemoryLimitError: The block ran out of memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        raise MemoryLimitError(
            f"out of memory while loading {what} ({reason[0][:200]}); load it with memory low, in bfloat16 or"
            " quantised, or close other programs"
        ) from error
