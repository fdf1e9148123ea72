"""What every worker process does first, whoever started it."""

from __future__ import annotations

import logging
import sys

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


def can_limit_memory() -> bool:
    """Whether the system enforces RLIMIT_DATA: Linux does."""
    return sys.platform == "linux"
