"""How a checkpoint is brought into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from hiper.errors import BackboneError, OptionError
from hiper.nearest import suggestion

MEMORY = ("balanced", "low")
QUANTISE = ("nf4", "int8")


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Where a model computes, in which number format, and what is given for less memory.

    OptionError for a word that is none of those below, and for int8 with low; BackboneError without bitsandbytes.

    quantise: "nf4" (arXiv:2305.14314) or "int8" (arXiv:2208.07339), the denoiser's weights in 4 or 8 bits
    memory:   "low" parks the text encoders except while they encode, and all else while they do
    """

    device: torch.device
    dtype: torch.dtype
    quantise: str | None = None
    memory: str = "balanced"

    def __post_init__(self) -> None:
        _check("memory", self.memory, MEMORY)
        if self.quantise is None:
            return
        _check("quantise", self.quantise, QUANTISE)
        if (self.quantise, self.memory) == ("int8", "low"):
            raise OptionError(
                "int8 weights cannot leave the device, so they take no turns; choose quantise=nf4,"
                " or memory=balanced"
            )
        if find_spec("bitsandbytes") is None:
            raise BackboneError('quantised weights need bitsandbytes; run `pip install "hiper[quant]"`')


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise OptionError(
            f"{name} is {value!r}; allowed are {', '.join(allowed)}{suggestion(value, allowed)}"
        )
