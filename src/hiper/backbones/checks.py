"""What every loaded model is checked for, whatever its family and however it came: one place for all.

Libraries fill in what a file lacks by chance and say so in a log line at most; diffusers leaves it without data.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hiper.backbones.matching import Layout, check_components
from hiper.errors import BackboneError, HiperWarning

Report = Mapping[str, Any]
"""What `from_pretrained` returns for `output_loading_info`: missing, unexpected and mismatched keys."""

_AGAIN = "download both from one place"
_ADAPTER = r"(^|\.)base_layer\.|(^|[._])lora_"
_WRAPPERS = {
    _ADAPTER: "a LoRA or another adapter inside; unload it before saving"
    " (fuse_lora, then unload_lora_weights)",
    r"(^|\.)_orig_mod\.": "torch.compile around it; save the model itself (model._orig_mod)",
    r"(^|\.)_fsdp_wrapped_module\.": "FSDP around it; save the model itself",
    r"(^|\.)module\.": "DataParallel around it; save the model itself (model.module)",
    r"(^|[._])ema[._]": "moving averages (EMA) under other names; save them as the model's own weights",
}
"""What the names of tensors show that were not saved from the bare model."""


def check_loaded(
    pipe: Any, reports: Mapping[str, Report], *, denoiser: str, layout: Layout, name: str
) -> None:
    """Check a pipeline that was just loaded: every weight of every component, and that they belong together.

    Args:
        pipe: A diffusers pipeline, on the CPU, not quantised yet.
        reports: What the libraries say of the loading of its components; some may be missing.
        denoiser: The component that is called once per step.
        layout: How the family's components fit together.
        name: What to call the model in a message.

    Raises:
        BackboneError: See `check_components` and `check_part`.
    """
    check_components(pipe, denoiser, layout, name)
    for component, part in pipe.components.items():
        if isinstance(part, nn.Module):
            strict = component in (denoiser, "vae")
            check_part(part, f"{name}: {component}", reports.get(component), strict=strict)


def check_part(part: nn.Module, where: str, report: Report | None, *, strict: bool) -> None:
    """Check that every parameter and buffer of a loaded model is its file's, and a finite number.

    Args:
        part: A model, before it is quantised or moved.
        where: What to call it in a message.
        report: What the library says of its loading; None where it says nothing.
        strict: Refuse tensors of the model's own modules that the configuration does not describe, such as further
            layers, and warn of others; without it warn of the first only: many text encoders lie beside a decoder.

    Raises:
        BackboneError: The first tensor that is missing, of another shape than the configuration's, without a place in
            the model, without data, or not finite.
    """
    if report is not None:
        _check_names(part, where, report, strict=strict)
        for name, found, wanted in sorted(report["mismatched_keys"]):
            raise BackboneError(
                f"{where}: {name} has the shape {list(found)}, by config.json it has {list(wanted)}; {_AGAIN}"
            )
    for name, tensor in (*part.named_parameters(), *part.named_buffers()):
        if tensor.is_meta:
            raise BackboneError(f"{where} lacks {name}, which is left without data; download the model again")
    for name, tensor in part.state_dict().items():
        if not _is_finite(tensor):
            raise BackboneError(
                f"{where}: {name} holds NaN or infinity in {tensor.dtype}; its file is damaged, or that number"
                " format is too narrow for it"
            )


def _check_names(part: nn.Module, where: str, report: Report, *, strict: bool) -> None:
    missing, unexpected = _in_order(part, report["missing_keys"]), sorted(report["unexpected_keys"])
    own = [name for name in unexpected if hasattr(part, name.partition(".")[0])]
    for mark, reason in _WRAPPERS.items():
        if any(re.search(mark, name) for name in unexpected) and (missing or mark == _ADAPTER):
            raise BackboneError(f"{where} was saved with {reason}")
    if missing:
        raise BackboneError(
            f"{where} lacks {first(missing)}, which config.json describes; download the model again"
        )
    if own and strict:
        raise BackboneError(f"{where} has {first(own)}, which config.json does not describe; {_AGAIN}")
    if unused := unexpected if strict else own:
        tell_unused(where, f"{first(unused)}, which config.json does not describe")


def tell_unused(where: str, what: str) -> None:
    """Warn of tensors that a file has and the model has not."""
    warnings.warn(f"{where} has {what}: it is not used", HiperWarning, stacklevel=2)


def _in_order(part: nn.Module, names: Iterable[str]) -> list[str]:
    """Return names in the order of the model's own tensors."""
    order = {name: place for place, name in enumerate(part.state_dict())}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def first(names: list[str]) -> str:
    """Name the first of some tensors, and how many there are besides."""
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    lowest, highest = tensor.aminmax()  # NaN comes through
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))
