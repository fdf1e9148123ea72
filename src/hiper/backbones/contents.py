"""What the components of a model hold, hashed where they lie: nothing is moved, and a device is waited for once.

A weight that is written through `.data`, as peft does when it merges an adapter, leaves the tensor's version counter
and address as they were, so neither tells whether a model is what it was: its numbers are read, at the speed of memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from hiper.options import digest

_BLOCK = 1 << 20
_PASSING = ("training", "gradient_checkpointing", "warnings_issued", "name_or_path")
"""Attributes of modules that decide nothing: where it came from, and what changes from moment to moment."""
_ADAPTERS = ("_active_adapter", "_disable_adapters")
"""Of peft's layers: which adapters take part. Other private attributes are not looked at."""
_INCIDENTAL = ("architectures", "transformers_version", "dtype", "torch_dtype")
"""Of configurations: what saving writes into the model that is saved, and what its weights say anyway."""
_TOKENIZER = ("model_max_length", "padding_side", "truncation_side", "chat_template", "special_tokens_map")


def hashes(components: Mapping[str, Any]) -> dict[str, str]:
    """Return for each component, by its name, a hash of its weights, buffers, settings and configuration."""
    numbers = checksums(components)
    return {
        name: digest({"numbers": numbers.get(name, {}), "description": described(part)})
        for name, part in components.items()
        if part is not None
    }


def checksums(components: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return for each module among the components a checksum of every weight and buffer, by their names."""
    sums = {
        name: {key: checksum(tensor) for key, tensor in tensors_of(part)}
        for name, part in components.items()
        if isinstance(part, nn.Module)
    }
    read = iter(_values([each for named in sums.values() for each in named.values()]))
    return {name: {key: next(read) for key in named} for name, named in sums.items()}


def state_of(module: nn.Module) -> tuple[object, ...]:
    """Return what changes when a tensor is written to or replaced, but for writes through `.data`."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return tuple((name, tensor._version) for name, tensor in tensors)  # noqa: SLF001  # the counter has no other name


def tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by name and kind, with what a quantised one consists of, each once."""
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        yield from _plain_tensors(name, tensor)


def _plain_tensors(name: str, tensor: Any) -> Iterator[tuple[str, Tensor]]:
    if is_traceable_wrapper_subclass(tensor):
        for inner in tensor.__tensor_flatten__()[0]:
            yield from _plain_tensors(f"{name}.{inner}", getattr(tensor, inner))
        return
    yield f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor
    state = getattr(tensor, "quant_state", None)  # of bitsandbytes: the scales are no buffers
    scales = {
        "SCB": getattr(tensor, "SCB", None),
        **(state.as_dict(packed=True) if state is not None else {}),
    }
    for inner, scale in scales.items():
        if isinstance(scale, Tensor):
            yield f"{name}.{inner}", scale


def checksum(tensor: Tensor) -> Tensor:
    """Return a sum of the tensor's bytes, eight at a time, each times an odd factor of its place: [], int64.

    Integer arithmetic modulo 2**64, so that every device comes to the same; one change is never missed.
    """
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if raw.device.type == "mps":  # shares its memory with the CPU
        raw = raw.cpu()
    aligned = raw.numel() % 8 == 0 and raw.storage_offset() % 8 == 0 and raw.numel() > 0
    numbers = (raw if aligned else F.pad(raw, (0, 8 - raw.numel() % 8))).view(torch.int64)
    factors = _factors(numbers.device)
    while True:
        blocks = torch.split(numbers, _BLOCK)
        numbers = torch.stack([(block * factors[: len(block)]).sum() for block in blocks])
        if len(numbers) == 1:
            return numbers[0]


@cache
def _factors(device: torch.device) -> Tensor:
    drawn = torch.randint(-(2**62), 2**62, (_BLOCK,), generator=torch.Generator().manual_seed(0))
    return (2 * drawn + 1).to(device)


def _values(scalars: Sequence[Tensor]) -> list[Any]:
    """Bring scalars to the processor, those of one device at once."""
    places: dict[torch.device, list[int]] = {}
    for i, scalar in enumerate(scalars):
        places.setdefault(scalar.device, []).append(i)
    read: dict[int, Any] = {}
    for indices in places.values():
        read.update(zip(indices, torch.stack([scalars[i] for i in indices]).tolist(), strict=True))
    return [read[i] for i in range(len(scalars))]


def picked(weights: Sequence[Tensor], count: int) -> tuple[float, ...]:
    """Return `count` numbers at even distances from all weights, put one behind the other, to six digits."""
    every = sum(weight.numel() for weight in weights) / count
    found, start, i = [], 0, 0
    for weight in weights:
        while i < count and int(i * every) < start + weight.numel():
            place = torch.unravel_index(torch.tensor(int(i * every) - start), weight.shape)
            found.append(weight[tuple(int(each) for each in place)].float())
            i += 1
        start += weight.numel()
    return tuple(float(f"{value:.6g}") for value in _values(found))


def described(part: Any) -> list[Any]:
    """Return what is to be known of a component beside its numbers, as plain data."""
    about = [type(part).__name__, _configuration(part)]
    if isinstance(part, nn.Module):
        return [*about, _settings(part)]
    if hasattr(part, "get_vocab"):
        return [*about, _plain({name: getattr(part, name, None) for name in _TOKENIZER}), _vocabulary(part)]
    parts = (getattr(part, name, None) for name in ("tokenizer", "image_processor"))  # of a processor
    return [*about, *(described(each) for each in parts if each is not None)]


def described_pipeline(pipe: Any) -> list[Any]:
    """Return what a pipeline adds to its components: its class, its configuration, its own texts and numbers."""
    return [
        type(pipe).__name__,
        _configuration(pipe),
        _plain({name: value for name, value in vars(pipe).items() if _is_plain(value)}),
    ]


def _configuration(part: Any) -> Any:
    config: Any = getattr(part, "config", None)
    if config is None and not isinstance(part, nn.Module) and not hasattr(part, "get_vocab"):
        config = part
    table = config.to_dict() if hasattr(config, "to_dict") else config
    return _plain(dict(table)) if isinstance(table, Mapping) else None


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the plain attributes of a module and all below it: scales of adapters, tiling, FreeU, and such."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        mine = {
            name: value
            for name, value in vars(part).items()
            if name not in _PASSING and (name in _ADAPTERS or not name.startswith("_")) and _is_plain(value)
        }
        processor = vars(part).get("processor")
        found[path] = [_plain(mine, private=True), type(processor).__name__]
    return found


def _vocabulary(tokenizer: Any) -> Any:
    """Return a tokenizer's rules; how it cuts and fills is set anew at every call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _plain(tokenizer.get_vocab(), private=True)
    return {**json.loads(backend.to_str()), "truncation": None, "padding": None}


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(each) for each in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _plain(value: Any, *, private: bool = False) -> Any:
    """Return a copy as JSON has it, without private names unless asked for; other objects by their type."""
    if isinstance(value, Mapping):
        names = {str(name): each for name, each in value.items()}
        kept = (name for name in names if private or not (name.startswith("_") or name in _INCIDENTAL))
        return {name: _plain(names[name], private=private) for name in kept}
    if isinstance(value, (list, tuple)):
        return [_plain(each, private=private) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(type(value))
