"""Tensors that say where they lie, whatever memory they are in.

Inside `fake_gpu` every tensor is a `Placed`: a shell with a device to show, around a tensor that computes. That one is
in the CPU's memory, so a tiny model computes the numbers it would have on the CPU; where it has more than `large`
elements it is on torch's meta device, without numbers, so that a model of any size needs no memory. Each call of
torch comes here first: its tensors must share a device, the call is made on the inner ones, and what comes back is
placed again. Autograd, FLOP counters and everything else of torch below works on the inner tensors and is its own.

What of torch does not come here would see a shell, and is refused loudly by `Placed.__torch_dispatch__`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, final

import numpy as np
import torch
import torch.utils.checkpoint
from benchmarks.fake_gpu.attention import attention
from benchmarks.fake_gpu.kernels import Kernels, Mismatch, place
from torch import Tensor
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily

CPU = torch.device("cpu")
_RANDOM = ("rand", "randint", "randn", "randperm")
FACTORIES = frozenset(
    ("arange", "empty", "empty_strided", "eye", "full", "linspace", "ones", "zeros", *_RANDOM)
)
COPIES = frozenset(("tensor", "as_tensor", "asarray", "new_tensor", "scalar_tensor"))
"""Functions that bring numbers of Python to a device."""
READERS = frozenset(("tolist", "numpy", "__array__"))
ACROSS = frozenset(("copy_", "_has_compatible_shallow_copy_type", "type_as"))
"""Functions whose tensors may lie on different devices."""
JOINING = frozenset(("cat", "concat", "concatenate", "dstack", "hstack", "stack", "vstack"))
"""Functions that take not even a single number from the CPU."""


@final
class Placed(Tensor):
    """A shell: `_inner` computes, `_where` is the device it says; `_pinned`: a copy to a GPU need not wait for it."""

    _inner: Tensor
    _where: torch.device
    _pinned: bool

    @staticmethod
    def __new__(cls, inner: Tensor, where: torch.device) -> Placed:
        meta = torch.device("meta")
        shell: Placed = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=meta)
        shell._inner, shell._where, shell._pinned = inner, where, False
        return shell

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise RuntimeError(f"{func} was called on a tensor of fake_gpu outside of its block")

    @classmethod
    def __torch_dispatch__(cls, func: Any, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError(f"{func} reached the shell of a tensor of fake_gpu: torch has changed")


@contextmanager
def fake_gpu(large: int | None = None) -> Iterator[Kernels]:
    """Place every tensor that is made inside the block; models are built and loaded there as well.

    large: a tensor of more elements has no numbers; None: all have.
    """
    kernels = Kernels()
    mode, own = _Placing(kernels, large), torch.utils.checkpoint.checkpoint
    torch.utils.checkpoint.checkpoint = _recomputing(mode, own)
    try:
        with kernels, mode:
            yield kernels
    finally:
        torch.utils.checkpoint.checkpoint = own


def _recomputing(mode: TorchFunctionMode, own: Callable[..., Any]) -> Callable[..., Any]:
    """Return torch's gradient checkpointing on inner tensors: those are what autograd keeps."""

    def checkpoint(function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        wheres = [each._where for each in _found(args)]

        def inside(*inner: Any) -> Any:
            left = iter(wheres)
            with mode:
                placed = _mapped(inner, lambda each: Placed(each, next(left)))
                return _mapped(function(*placed), lambda each: each._inner)

        with _pop_mode_temporarily():
            computed = own(inside, *_mapped(args, lambda each: each._inner), **settings)
        return _mapped(computed, lambda each: Placed(each, wheres[0]))

    return checkpoint


@final
class _Placing(TorchFunctionMode):
    """Sends every call of torch to the inner tensors."""

    def __init__(self, kernels: Kernels, large: int | None) -> None:
        super().__init__()
        self._kernels, self._large = kernels, large
        self._special: dict[str, Callable[..., Any]] = {
            "__get__": self._get,
            "__set__": self._set,
            "to": self._to,
            "cpu": lambda func, args, kwargs: self._to(func, (args[0], CPU), kwargs),
            "pin_memory": self._pin,
            "is_pinned": lambda func, args, kwargs: self._own(args[0])._pinned,
            "get_device": lambda func, args, kwargs: (
                args[0]._where.index if args[0]._where.type != "cpu" else -1
            ),
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        settings: dict[str, Any] = kwargs or {}
        if name in self._special:
            return self._special[name](func, args, settings)
        found: list[Placed] = []

        def own(each: Tensor) -> Placed:
            found.append(self._own(each))
            return found[-1]

        args, settings = _mapped((args, settings), own)
        if not found and name in FACTORIES:
            return self._made(func, args, settings)
        if name in READERS:
            return self._read(func, name, args, settings)
        return self._called(func, name, args, settings, found)

    # what is placed, and where

    def _own(self, tensor: Tensor) -> Placed:
        return tensor if isinstance(tensor, Placed) else self._placed(tensor, tensor.device)

    def _placed(self, inner: Tensor, where: torch.device) -> Placed:
        if self._large is not None and not inner.is_meta and inner.numel() > self._large:
            inner = _blank(inner)
        return Placed(inner, where)

    def _shared(self, name: str, args: Sequence[Any], found: Sequence[Placed]) -> torch.device:
        """Return where the call's tensors lie; Mismatch where they do not lie together."""
        wheres = {each._where for each in found}
        if len(wheres) > 1 and name not in JOINING:  # a single number on the CPU goes with anything
            wheres = {each._where for each in found if each._where != CPU or each._inner.dim()}
        if len(wheres) < 2:
            return next(iter(wheres), CPU)
        first: torch.device = args[0]._where if isinstance(args[0], Placed) else CPU
        if name in ACROSS:
            if name == "copy_":
                self._kernels.sync("copy")
            return first
        if name in ("__getitem__", "__setitem__"):  # a place on the CPU is copied, a single one is read
            places, written = _found(args[1]), _found(args[2:])
            if all(each._where in (first, CPU) or not each._inner.dim() for each in places) and all(
                each._where == first or not each._inner.dim() for each in written
            ):
                self._kernels.sync("copy of an index")
                return first
        names = " and ".join(sorted(map(str, wheres)))
        raise Mismatch(f"{name} of tensors on {names} in {place()}")

    # the calls

    def _called(self, func: Any, name: str, args: Any, settings: dict[str, Any], found: list[Placed]) -> Any:
        where = self._shared(name, args, found)
        blank = any(each._inner.is_meta for each in found)
        if settings.get("device") is not None:
            where = _device(settings["device"])
            settings = {**settings, "device": "meta" if blank or where.type == "meta" else "cpu"}
            if where.type not in ("cpu", "meta"):
                self._kernels.built[place()] += 1
        if name in COPIES and where.type not in ("cpu", "meta"):
            self._kernels.sync("copy")
        _check_generator(name, settings, where)
        if blank:
            args = self._blanked(name, args, settings)
        known = {id(each._inner): each for each in found}
        inner, inner_settings = _mapped(
            (args, settings),
            lambda each: _blank(each._inner) if blank and not each._inner.is_meta else each._inner,
        )
        if name == "scaled_dot_product_attention" and blank:
            func = attention
        with self._kernels.working(where.type not in ("cpu", "meta")):
            out = func(*inner, **inner_settings)
        return _mapped(out, lambda each: known[id(each)] if id(each) in known else self._placed(each, where))

    def _blanked(self, name: str, args: Any, settings: dict[str, Any]) -> Any:
        """Take the numbers from a tensor that is written to, and from masks, which become the places they name."""
        in_place = name.endswith("_") and not name.endswith("__")
        if in_place or name == "__setitem__" or name.startswith("__i"):
            target = args[0] if args else settings.get("tensor")  # by name: the functions of torch.nn.init
            if isinstance(target, Placed) and not target._inner.is_meta:
                target._inner = _blank(target._inner)
        if name not in ("__getitem__", "__setitem__"):
            return args
        index: list[Any] = []
        for each in args[1] if isinstance(args[1], tuple) else (args[1],):
            if isinstance(each, Placed) and each._inner.dtype == torch.bool and not each._inner.is_meta:
                with self._kernels.working(each._where != CPU):
                    index += [Placed(places, each._where) for places in each._inner.nonzero(as_tuple=True)]
            else:
                index.append(each)
        return (args[0], tuple(index), *args[2:])

    def _made(self, func: Any, args: Any, settings: dict[str, Any]) -> Placed:
        """Make a tensor from nothing."""
        where = _device(settings.get("device") or "cpu")
        _check_generator(getattr(func, "__name__", ""), settings, where)
        empty = {name: value for name, value in settings.items() if name not in ("generator", "pin_memory")}
        blank = where.type == "meta" or (
            self._large is not None and func(*args, **{**empty, "device": "meta"}).numel() > self._large
        )
        if where.type not in ("cpu", "meta"):
            self._kernels.built[place()] += 1
        settings = {**empty, "device": "meta"} if blank else {**settings, "device": "cpu"}
        with self._kernels.working(where.type not in ("cpu", "meta")):
            return Placed(func(*args, **settings), where)

    def _read(self, func: Any, name: str, args: Any, settings: dict[str, Any]) -> Any:
        """Give the numbers to Python or numpy; those of a tensor without numbers are zeros."""
        tensor: Placed = args[0]
        if tensor._where != CPU:
            if name != "tolist":
                raise TypeError(f"can't convert {tensor._where} device type tensor to numpy")
            self._kernels.sync(name)
        inner = tensor._inner
        if inner.is_meta and name != "tolist":
            return np.broadcast_to(torch.zeros((), dtype=inner.dtype).numpy(), tuple(inner.shape))
        inner = torch.zeros(inner.shape, dtype=inner.dtype) if inner.is_meta else inner
        return func(inner, *args[1:], **settings)

    # attributes and moves

    def _get(self, func: Any, args: Any, settings: dict[str, Any]) -> Any:
        tensor = self._own(args[0])
        attribute = getattr(func.__self__, "__name__", "")
        if attribute == "device":
            return tensor._where
        if attribute in ("is_cpu", "is_cuda", "is_mps", "is_meta"):
            return tensor._where.type == attribute.removeprefix("is_")
        value = func(tensor._inner)
        return self._placed(value, tensor._where) if isinstance(value, Tensor) else value

    def _set(self, func: Any, args: Any, settings: dict[str, Any]) -> None:
        tensor, value = self._own(args[0]), args[1]
        if not isinstance(value, Tensor):
            func(tensor._inner, value)
            return
        value = self._own(value)
        if getattr(func.__self__, "__name__", "") != "data":
            func(tensor._inner, value._inner)
        elif tensor._inner.is_meta == value._inner.is_meta:
            func(tensor._inner, value._inner)
            tensor._where = value._where
        else:
            tensor._inner = value._inner.detach().requires_grad_(tensor._inner.requires_grad)
            tensor._where = value._where

    def _pin(self, func: Any, args: Any, settings: dict[str, Any]) -> Placed:
        pinned = Placed(args[0]._inner, args[0]._where)
        pinned._pinned = True
        return pinned

    def _to(self, func: Any, args: Any, settings: dict[str, Any]) -> Placed:
        tensor = self._own(args[0])
        where, dtype = tensor._where, tensor._inner.dtype
        for each in (*args[1:], settings.get("device"), settings.get("dtype"), settings.get("other")):
            if isinstance(each, Tensor):
                where, dtype = self._own(each)._where, self._own(each)._inner.dtype
            elif isinstance(each, torch.dtype):
                dtype = each
            elif isinstance(each, str | torch.device):
                where = _device(each)
        flags = [each for each in args[1:] if isinstance(each, bool)]
        waits = not (tensor._pinned and settings.get("non_blocking", flags[0] if flags else False))
        layout = settings.get("memory_format", torch.preserve_format)
        same = (where, dtype) == (tensor._where, tensor._inner.dtype) and layout is torch.preserve_format
        if same and not settings.get("copy", len(flags) > 1 and flags[1]):
            return tensor
        if where != tensor._where and (
            where == CPU or (tensor._where == CPU and where.type != "meta" and waits)
        ):
            self._kernels.sync("copy")
        device = "meta" if where.type == "meta" else tensor._inner.device
        with self._kernels.working(where == tensor._where and where != CPU):
            return Placed(tensor._inner.to(device, dtype, copy=True, memory_format=layout), where)


class _Blank(torch.autograd.Function):
    """A tensor without its numbers; its gradient is made up, and no number is zero."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.dtype = tensor.dtype
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return torch.ones(gradients[0].shape, dtype=ctx.dtype, device="cpu")


def _blank(tensor: Tensor) -> Tensor:
    blank: Tensor = _Blank.apply(tensor)  # type: ignore[no-untyped-call]
    return blank


def _check_generator(name: str, settings: dict[str, Any], where: torch.device) -> None:
    """Refuse a generator, which is the CPU's, for numbers on the GPU."""
    if settings.get("generator") is not None and where.type not in ("cpu", "meta"):
        raise Mismatch(f"{name} on {where} by a generator on the CPU in {place()}")


def _device(device: Any) -> torch.device:
    """Return a device with its number, as that of a tensor has one."""
    named = torch.device(device)
    return named if named.type in ("cpu", "meta") or named.index is not None else torch.device(named.type, 0)


def _found(value: Any) -> list[Placed]:
    """Return the tensors in a value, however deep."""
    found: list[Placed] = []
    _mapped(value, found.append)
    return found


_LEAVES = frozenset((bool, float, int, str, type(None), torch.device, torch.dtype, torch.Size))


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the value with every tensor changed, however deep it is in lists, tuples and dictionaries."""
    if type(value) in _LEAVES:
        return value
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _mapped(each, change) for name, each in value.items()}
    if not isinstance(value, tuple | list):
        return value
    items = [_mapped(each, change) for each in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
