"""Low-rank layers beside a denoiser's attention, through diffusers' adapters; calls into it that carry no types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from hiper.backbones.offloading import frozen
from hiper.errors import BackboneError

_ADAPTER = "hiper"
_BESIDE = ("to_k", "to_q", "to_v", "to_out.0")


@contextmanager
def adapter(denoiser: Any, rank: int) -> Iterator[dict[str, Tensor]]:
    """Add low-rank layers, scaled by 1, while the block runs.

    Yields:
        Their weights by name, float32.

    Raises:
        BackboneError: The model has adapters of its own.
    """
    if getattr(denoiser, "peft_config", None):
        raise BackboneError(
            "the model has adapters of its own; merge them first (fuse_lora, then unload_lora_weights)"
        )
    with frozen([denoiser]), torch.random.fork_rng(devices=[]):
        denoiser.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=list(_BESIDE)), adapter_name=_ADAPTER
        )
        try:
            yield _weights(denoiser)
        finally:
            denoiser.unload_lora()


def _weights(denoiser: Any) -> dict[str, Tensor]:
    mark = f".{_ADAPTER}."
    weights = {name: weight for name, weight in denoiser.named_parameters() if mark in name}
    for weight in weights.values():
        weight.data = weight.data.float()
    return {name.replace(mark, "."): weight for name, weight in weights.items()}
