"""Randomness is an argument: seeds and the generators made from them; nothing here is global.

All noise is drawn in float32 on the CPU from one generator per purpose, so that a seed means the same
picture on every device and in every batch.
"""

from __future__ import annotations

import secrets

import torch

from hiper.errors import OptionError

RANDOM = -1
LARGEST = 2**63 - 1


def resolve_seed(seed: int) -> int:
    """Return `seed` itself, or for -1 a random one below 2**32; OptionError outside of -1 .. 2**63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not RANDOM <= seed <= LARGEST:
        raise OptionError(
            f"seed is {seed!r}; allowed are whole numbers from 0 to 2**63 - 1, or -1 for a random one"
        )
    return secrets.randbelow(2**32) if seed == RANDOM else seed


def generator(seed: int) -> torch.Generator:
    """Return a CPU generator for a resolved seed."""
    return torch.Generator("cpu").manual_seed(seed)
