"""How a checkpoint is brought into memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from hiper.backbones.prediction import resolve_prediction
from hiper.errors import BackboneError, OptionError
from hiper.options import check_choice

MEMORY = ("auto", "balanced", "low")
QUANTISE = ("nf4", "int8")
LARGE_TEXT_ENCODERS = 4 * 2**30
"""Bytes of weight files from which on text encoders are kept off the device: T5-XXL and language models, not CLIP."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Where a model computes, in which number format, and how it saves memory.

    Attributes:
        quantise: "nf4" (arXiv:2305.14314) or "int8" (arXiv:2208.07339), the denoiser's weights in 4 or 8 bits.
        memory: "low" offloads the text encoders except while they encode, and all other parts while they do; "auto"
            does so for large text encoders on an accelerator.
        prediction_type: What a diffusion model predicts, as the user says; "epsilon" or "v_prediction", or another
            spelling.
        recompute: A fit keeps few of the denoiser's activations and recomputes the others in the backward pass.

    Raises:
        OptionError: A word is none of those above, or int8 is asked for with low.
        BackboneError: bitsandbytes is not installed.
    """

    device: torch.device
    dtype: torch.dtype
    quantise: str | None = None
    memory: str = "auto"
    recompute: bool = False
    prediction_type: str | None = None

    def __post_init__(self) -> None:
        check_choice("memory", self.memory, MEMORY)
        object.__setattr__(self, "prediction_type", resolve_prediction(self.prediction_type))
        if self.quantise is None:
            return
        check_choice("quantise", self.quantise, QUANTISE)
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
