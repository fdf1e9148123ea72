"""Results that are the same to the last bit on an accelerator too, for a price in speed.

On a CPU they are anyway, with the same number of threads. On CUDA the sums of a backward pass are made in whatever
order threads arrive (atomics in attention's backward), and cuDNN may choose among algorithms by trying them: see
https://docs.pytorch.org/docs/stable/notes/randomness.html.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hiper.errors import OptionError

CUBLAS, WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""cuBLAS is deterministic with a workspace of its own per stream; it reads the variable at its first call."""


def is_deterministic() -> bool:
    """Whether this process uses deterministic algorithms alone, as in the block of `deterministic`."""
    return torch.get_deterministic_debug_mode() == 2


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Let torch use deterministic algorithms alone while the block runs; on leaving, all switches are what they were.

    `CUBLAS_WORKSPACE_CONFIG` is set to `:4096:8` meanwhile where it is not set; a process that has multiplied on CUDA
    before has to be started with it.

    Args:
        wanted: False changes nothing.

    Raises:
        OptionError: an operation has no deterministic form on this device.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    mode, flags = torch.get_deterministic_debug_mode(), (cudnn.deterministic, cudnn.benchmark)
    workspace = os.environ.get(CUBLAS)
    os.environ.setdefault(CUBLAS, WORKSPACE)
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise OptionError(
            f"it cannot be done deterministically ({reason}); leave that option away"
        ) from error
    finally:
        torch.set_deterministic_debug_mode(mode)
        cudnn.deterministic, cudnn.benchmark = flags
        if workspace is None:
            del os.environ[CUBLAS]
