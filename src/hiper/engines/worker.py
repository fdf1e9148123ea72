"""What every worker process does first, whoever started it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_GIB = 2**30


def prepare(threads: int, memory_limit: float | None) -> None:
    """Set up a worker process: quiet libraries, its threads, its limit of memory.

    Args:
        threads: That torch computes with.
        memory_limit: GiB of Linux's RLIMIT_DATA, on what a process allocates; an allocation beyond it fails at once
            with an error that can be reported, where a limit on resident memory would end the process.
    """
    import torch

    logging.disable()
    torch.set_num_threads(threads)
    if memory_limit is not None:
        import resource  # which Windows lacks, where nothing is limited

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory_limit * _GIB), hard))


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def can_limit_memory() -> bool:
    """Whether the system enforces RLIMIT_DATA: Linux does."""
    return sys.platform == "linux"
