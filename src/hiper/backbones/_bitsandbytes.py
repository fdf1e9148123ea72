"""Weights in 4 or 8 bits by bitsandbytes, whose layers carry no types; gradients go through them to their input."""

from __future__ import annotations

from typing import Any

import bitsandbytes
import torch
from torch import nn


def quantise(
    denoiser: nn.Module, kind: str, device: torch.device, dtype: torch.dtype, home: torch.device
) -> None:
    """Replace the linear layers of the denoiser's blocks; what stands outside of them is little, and matters most.

    One layer at a time comes to the device as it is and is packed there; its own weights are given up before the next.
    diffusers' own way, a configuration handed to `from_pretrained`, refuses to work without a GPU.

    Args:
        denoiser: On the CPU.
        kind: "nf4" or "int8".
        device: Where weights are packed.
        dtype: What is computed in.
        home: Where packed weights are kept. An int8 layer that has left its device keeps a copy there until it is
            first called, so for int8 it is `device`.
    """
    names = [
        name
        for name, layer in denoiser.named_modules()
        if type(layer) is nn.Linear and any(part.isdecimal() for part in name.split("."))
    ]
    for name in names:  # no layer is held by its name
        layer = denoiser.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        packed = _quantised(layer, kind, dtype).to(device)
        denoiser.set_submodule(name, packed if home == device else packed.to(home))


def _quantised(layer: nn.Linear, kind: str, dtype: torch.dtype) -> nn.Module:
    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    new: Any
    if kind == "nf4":
        new = bitsandbytes.nn.Linear4bit(*shape, compute_dtype=dtype, quant_type="nf4", device="meta")
        new.weight = bitsandbytes.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", module=new
        )
        # Its short cut on some CPUs rewrites the weights when it first runs without a gradient
        new.support_avx512bf16_for_cpu = False
    else:
        new = bitsandbytes.nn.Linear8bitLt(*shape, has_fp16_weights=False, device="meta")
        new.weight = bitsandbytes.nn.Int8Params(
            layer.weight.data, requires_grad=False, has_fp16_weights=False
        )
    new.bias = layer.bias
    module: nn.Module = new.eval()
    return module
