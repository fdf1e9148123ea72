"""Take modules out of memory and bring them back bit for bit.

A fit needs the denoiser only. On an accelerator the others move to the CPU; on the CPU their weights
are written to an unnamed temporary file (its folder: the environment variable TMPDIR), which the
operating system removes even if the process is killed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

import torch
from torch import Tensor, nn

from hiper.errors import OutputError


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


@contextmanager
def parked(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Take the modules' weights out of the memory of `device`; restore them on leaving."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(
                _parked_on_disk(module) if device.type == "cpu" else _parked_on_cpu(module, device)
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()
        yield


@contextmanager
def _parked_on_cpu(module: nn.Module, device: torch.device) -> Iterator[None]:
    module.to("cpu")
    try:
        yield
    finally:
        module.to(device)


@contextmanager
def _parked_on_disk(module: nn.Module) -> Iterator[None]:
    weights = list(module.parameters())
    with tempfile.TemporaryFile(prefix="hiper-parked-") as file:
        _write(file, weights)
        layouts = [(weight.shape, weight.stride()) for weight in weights]
        for weight in weights:
            weight.data = torch.empty(0, dtype=weight.dtype)
        try:
            yield
        finally:
            file.seek(0)
            for weight, (shape, stride) in zip(weights, layouts, strict=True):
                # the device by name: a model may be dropped while another one is built under torch.device("meta")
                weight.data = torch.empty_strided(shape, stride, dtype=weight.dtype, device="cpu").copy_(
                    _read(file, weight, shape)
                )


def _write(file: IO[bytes], weights: Sequence[Tensor]) -> None:
    try:
        for weight in weights:
            file.write(_bytes_of(weight.detach().contiguous()))
        file.flush()
    except OSError as error:
        size = sum(weight.nbytes for weight in weights)
        raise OutputError(
            f"{tempfile.gettempdir()} cannot take {size} bytes of parked weights ({error.strerror});"
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
