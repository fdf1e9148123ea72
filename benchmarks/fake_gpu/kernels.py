"""What a GPU would be asked to do, seen below autograd: kernels, waits of the processor, mixtures of dtypes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SINGLE_DTYPE = (
    "aten::addmm",
    "aten::baddbmm",
    "aten::bmm",
    "aten::convolution",
    "aten::linear",
    "aten::mm",
    "aten::native_group_norm",
    "aten::native_layer_norm",
)
"""Operations whose GPU kernels take floats of one dtype only; some CPU kernels take two."""

_NO_KERNEL = ("aten::detach", "aten::empty", "aten::lift_fresh", "aten::new_empty", "aten::_unsafe_view")
"""Operations that start no kernel, beside views, whose schema says so."""

_OWN = ("torch.", "benchmarks.fake_gpu", "hiper.analysis.counting")


class Mismatch(RuntimeError):  # what torch would raise on a GPU is a RuntimeError
    """Tensors of two devices or dtypes meet in an operation that takes one."""


@final
class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while the tensors of the call under way lie on the GPU (`busy`).

    kernels: how many were started
    syncs:   how often the processor waited for the GPU or copied to it from pageable memory, by the place in the code
    built:   how often a tensor was made on the GPU from nothing, by the place in the code
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.busy = False
        self.clear()

    def clear(self) -> None:
        """Begin to count anew."""
        self.kernels, self.syncs, self.built = 0, Counter[str](), Counter[str]()

    def sync(self, why: str) -> None:
        """Note that the processor waits."""
        self.syncs[f"{why} in {place()}"] += 1

    @contextmanager
    def working(self, busy: bool) -> Iterator[None]:
        """Count the operations of the block as those of the GPU, or not."""
        before, self.busy = self.busy, busy
        try:
            yield
        finally:
            self.busy = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name in ("aten::_local_scalar_dense", "aten::equal"):
            return self._read(name, func, args)
        if self.busy:
            self._check_dtypes(name, args)
            if name == "aten::nonzero" or (name.startswith("aten::index") and _masks(args)):
                self.sync("nonzero")
            if _starts_kernel(func):
                self.kernels += 1
        return func(*args, **(kwargs or {}))

    def _read(self, name: str, func: Any, args: tuple[Any, ...]) -> Any:
        """Answer what a number is; of a tensor without numbers it is one, or true."""
        if self.busy:
            self.sync(name.removeprefix("aten::"))
        first: Tensor = args[0]
        if not first.is_meta:
            return func(*args)
        return True if name == "aten::equal" else torch.ones((), dtype=first.dtype, device="cpu").item()

    def _check_dtypes(self, name: str, args: tuple[Any, ...]) -> None:
        if name in _SINGLE_DTYPE or name.startswith("aten::_scaled_dot_product"):
            inputs = args[:3]  # of attention; what follows is its own, such as sums of logarithms in float32
            floats = {each.dtype for each in inputs if isinstance(each, Tensor) and each.is_floating_point()}
            if len(floats) > 1:
                raise Mismatch(f"{name} of {' and '.join(sorted(map(str, floats)))} in {place()}")


def place() -> str:
    """Return the innermost function under way that is neither torch's nor this package's, by its full name."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OWN):
        frame = frame.f_back
    return f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"


def _masks(args: tuple[Any, ...]) -> bool:
    """Tell whether an index is a mask, whose true places have to be counted before anything else can be done."""
    return any(isinstance(each, Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1:2]))


@cache
def _starts_kernel(func: Any) -> bool:
    views = (each.alias_info for each in func._schema.arguments)
    is_view = any(alias is not None and not alias.is_write for alias in views)
    return func._schema.name not in _NO_KERNEL and not is_view
