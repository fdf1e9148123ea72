"""Counting the cost of work: operations, bytes moved, bytes alive at once.

Under torch's fake tensors, which have shapes and no numbers, work of any size is counted without being done.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

_aten = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]


# torch 2.13 counts attention on every device but the CPU, where it costs a sixth of Stable Diffusion's denoiser.
CPU_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # noqa: SLF001
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,  # noqa: SLF001
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What was counted.

    Attributes:
        flops: Of matrix products, convolutions and attention; a multiplication and an addition are two.
        moved: Bytes, if every operation reads its inputs and writes its outputs: nothing is fused.
        products: The part of `moved` that belongs to the counted flops, which fusing the others does not save.
        peak: Most bytes of new tensors alive at once; weights and whatever was there before are not included.
    """

    flops: int
    moved: int
    products: int
    peak: int


@final
class Counter:
    """The counts of `counting` so far, also while its block runs."""

    def __init__(self, flops: FlopCounterMode, traffic: _Traffic) -> None:
        self._flops, self._traffic = flops, traffic

    def work(self) -> Work:
        """Return the sums."""
        traffic = self._traffic
        return Work(
            flops=self._flops.get_total_flops(),
            moved=traffic.moved,
            products=traffic.products,
            peak=traffic.peak,
        )

    def flops_of_modules(self) -> Mapping[str, int]:
        """Return flops by the module's dotted name, those of its parts included.

        They are valid for forward passes alone: in the backward, torch merges modules that read the same tensor.
        """
        return {name: sum(counts.values()) for name, counts in self._flops.get_flop_counts().items()}


@contextmanager
def counting() -> Iterator[Counter]:
    """Count what the block computes, forward and backward, on real or fake tensors."""
    traffic = _Traffic()
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as flops, traffic:
        yield Counter(flops, traffic)


@final
class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums bytes, operation by operation; follows every new storage until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = self.products = self.peak = self._alive = 0
        self._followed: dict[int, weakref.finalize[..., Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        taken, yielded = _tensors((args, kwargs)), func(*args, **(kwargs or {}))
        made = _tensors(yielded)
        if made:
            self._add(func, taken, made)
        return yielded

    def _add(self, func: Any, taken: list[Tensor], made: list[Tensor]) -> None:
        before = {_place(tensor) for tensor in taken}
        new = [tensor for tensor in made if _place(tensor) not in before]
        if not new and not func._schema.is_mutable:  # noqa: SLF001  # a view moves nothing
            return
        size = sum(_size(tensor) for tensor in (*taken, *made))
        self.moved += size
        if func.overloadpacket in flop_registry or func.overloadpacket in CPU_ATTENTION:
            self.products += size
        for tensor in new:
            self._follow(tensor.untyped_storage())

    def _follow(self, storage: Any) -> None:
        key = storage._cdata  # noqa: SLF001
        if key in self._followed:
            return
        size = storage.nbytes()
        self._followed[key] = weakref.finalize(storage, self._forget, key, size)
        self._alive += size
        self.peak = max(self.peak, self._alive)

    def _forget(self, key: int, size: int) -> None:
        del self._followed[key]
        self._alive -= size


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001


def _size(tensor: Tensor) -> int:
    """Return the bytes in memory: an expanded tensor has fewer than its shape says."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
