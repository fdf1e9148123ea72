"""Take modules out of memory and bring them back bit for bit.

A fit needs the denoiser only. On a GPU with memory of its own the others move to the CPU's. Where there is one memory
for all, on the CPU and on Apple's chips (mps), their weights are written to an unnamed temporary file (its folder: the
environment variable TMPDIR), which the operating system removes even if the process is killed.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import IO, final

import torch
from torch import Tensor, nn

from hiper.errors import OutputError

UNIFIED_MEMORY = ("cpu", "mps")
"""Types of devices that compute in the CPU's memory, so that moving weights there frees nothing."""


@contextmanager
def frozen(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let no weight ask for a gradient and no module be in training mode; restore both on leaving."""
    wanting = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    training = [part for module in modules for part in module.modules() if part.training]
    for weight in wanting:
        weight.requires_grad_(False)
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for weight in wanting:
            weight.requires_grad_(True)
        for part in training:
            part.training = True


@final
class Offloaded(AbstractContextManager[None]):
    """Modules whose weights are out of the memory of `device` inside the block.

    Leaving the block restores them; dropping the modules and this object inside it restores nothing, so that the
    memory of a model that nobody wants any more is never filled once more.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self._modules, self._device = tuple(modules), device
        self._away: list[_OnCpu | _OnDisk] = []

    def __enter__(self) -> None:
        where: type[_OnDisk | _OnCpu] = _OnDisk if self._device.type in UNIFIED_MEMORY else _OnCpu
        try:
            for module in self._modules:
                self._away.append(where(module, self._device))
        except BaseException:
            self.restore()
            raise
        if self._device.type != "cpu":
            torch.get_device_module(self._device).empty_cache()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Bring the weights back; one that fails half-way, for want of memory, may be called again."""
        while self._away:
            self._away[-1].restore()
            self._away.pop()


@final
class Entered(AbstractContextManager[None]):
    """What `enter` has put on a stack is left together with the block, and only then.

    A generator with `contextmanager` would leave it as well when it is garbage collected.
    """

    def __init__(self, enter: Callable[[ExitStack], None]) -> None:
        self._enter, self._stack = enter, ExitStack()

    def __enter__(self) -> None:
        with ExitStack() as stack:
            self._enter(stack)
            self._stack = stack.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)


@final
class _OnCpu:
    """A module that was moved from a device to the CPU."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module, self._device = module, device
        try:
            module.to("cpu")
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        self._module.to(self._device)


@final
class _OnDisk:
    """A module whose weights are in a file; what it keeps in their place has no numbers."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module, self._device = module, device
        self._weights = list(module.parameters())
        self._layouts = [(weight.shape, weight.stride()) for weight in self._weights]
        self._file = tempfile.TemporaryFile(prefix="hiper-offloaded-")  # noqa: SIM115
        self._close = weakref.finalize(self, self._file.close)
        _write(self._file, self._weights)
        for weight in self._weights:
            weight.data = torch.empty(0, dtype=weight.dtype, device=weight.device)

    def restore(self) -> None:
        self._file.seek(0)
        for weight, (shape, stride) in zip(self._weights, self._layouts, strict=True):
            # the device by name: a model may be restored while another one is built under torch.device("meta")
            strided = torch.empty_strided(shape, stride, dtype=weight.dtype, device="cpu")
            weight.data = strided.copy_(_read(self._file, weight, shape)).to(self._device)
        for buffer in self._module.buffers():  # too small to be written, but they may never have been there
            buffer.data = buffer.data.to(self._device)
        self._close()


def _write(file: IO[bytes], weights: Sequence[Tensor]) -> None:
    try:
        for weight in weights:
            file.write(_bytes_of(weight.detach().cpu().contiguous()))
        file.flush()
    except OSError as error:
        size = sum(weight.nbytes for weight in weights)
        raise OutputError(
            f"{tempfile.gettempdir()} cannot take {size} bytes of offloaded weights ({error.strerror});"
            " free space there or set TMPDIR to another folder"
        ) from error


def _read(file: IO[bytes], like: Tensor, shape: torch.Size) -> Tensor:
    weight = torch.empty(shape, dtype=like.dtype, device="cpu")
    read = file.readinto(_bytes_of(weight))  # type: ignore[attr-defined]
    assert read == weight.nbytes
    return weight


def _bytes_of(contiguous: Tensor) -> memoryview:
    """View a contiguous CPU tensor as its bytes, in the same storage."""
    return contiguous.view(-1).view(torch.uint8).numpy().data
