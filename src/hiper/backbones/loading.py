"""How a checkpoint is brought into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from hiper.backbones.prediction import resolve_prediction
from hiper.errors import BackboneError, OptionError
from hiper.options import suggestion

MEMORY = ("auto", "balanced", "low")
QUANTISE = ("nf4", "int8")
LARGE_TEXT_ENCODERS = 4 * 2**30
"""Bytes of weight files from which on text encoders are kept off the device: T5-XXL and language models, not CLIP."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Where a model computes, in which number format, and what is given for less memory.

    OptionError for a word that is none of those below, and for int8 with low; BackboneError without bitsandbytes.

    quantise: "nf4" (arXiv:2305.14314) or "int8" (arXiv:2208.07339), the denoiser's weights in 4 or 8 bits
    memory:   "low" parks the text encoders except while they encode, and all else while they do; "auto" does so for
              large text encoders on an accelerator
    prediction_type: what a diffusion model predicts, as the user says; "epsilon" or "v_prediction", or another spelling
    recompute: a fit keeps few of the denoiser's activations and computes the others anew on the way back
    """

    device: torch.device
    dtype: torch.dtype
    quantise: str | None = None
    memory: str = "auto"
    recompute: bool = False
    prediction_type: str | None = None

    def __post_init__(self) -> None:
        _check("memory", self.memory, MEMORY)
        object.__setattr__(self, "prediction_type", resolve_prediction(self.prediction_type))
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

    def resolved(self, text_encoder_bytes: int) -> Loading:
        """Decide what "auto" means for text encoders of that size on the disk."""
        if self.memory != "auto":
            return self
        apart = (
            self.device.type != "cpu"
            and self.quantise != "int8"
            and text_encoder_bytes >= LARGE_TEXT_ENCODERS
        )
        return replace(self, memory="low" if apart else "balanced")


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise OptionError(
            f"{name} is {value!r}; allowed are {', '.join(allowed)}{suggestion(value, allowed)}"
        )
