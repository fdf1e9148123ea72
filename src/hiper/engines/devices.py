"""Which accelerator each worker process of this machine has for itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from hiper.errors import OptionError

VARIABLE = "CUDA_VISIBLE_DEVICES"


def gpus() -> Sequence[str]:
    """Return the GPUs that this process may use, as `VARIABLE` names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    return named[:count] if len(named) >= count else [str(number) for number in range(count)]


def devices_of(
    workers: int, device: str | None, available: Callable[[], Sequence[str]] = gpus
) -> Sequence[str]:
    """Give each worker a GPU of its own.

    Args:
        workers: How many there are.
        device: What they are to load on; None or "cuda" let this function choose.
        available: Returns the GPUs.

    Returns:
        One GPU per worker; empty where there is no choice: one worker, no GPU, or a stated device for all.

    Raises:
        OptionError: There are more workers than GPUs.
    """
    if workers == 1 or device not in (None, "cuda"):
        return ()
    there = available()
    if there and workers > len(there):
        raise OptionError(
            f"{workers} workers, of which each takes a GPU of its own, and {len(there)} to be had; ask for fewer, or"
            " state what they share, such as --device cuda:0 or --device cpu"
        )
    return tuple(there[:workers])
