"""A lack of memory is recognised however it is reported, and never taken for another fault."""

from __future__ import annotations

import errno

import pytest
import torch

from hiper.backbones._diffusers import refusals
from hiper.engines.base import perform
from hiper.errors import BackboneError, MemoryLimitError
from hiper.files import is_out_of_memory, loading_in_memory


def caught(call: object) -> BaseException:
    """What torch really raises."""
    with pytest.raises(RuntimeError) as raised:
        call()  # type: ignore[operator]
    return raised.value


SHORT = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    caught(lambda: torch.empty(2**60, dtype=torch.uint8)),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"),
]
OTHERS = [
    RuntimeError("size mismatch"),
    OSError(errno.ENOENT, "No such file"),
    ValueError("out of memory"),
    KeyError("x"),
]


@pytest.mark.parametrize("error", SHORT, ids=repr)
def test_a_lack_of_memory_is_no_refusal(error: Exception) -> None:
    assert is_out_of_memory(error)
    with (
        pytest.raises(MemoryLimitError, match="out of memory while loading a model") as refused,
        loading_in_memory("a model"),
        refusals("a model cannot be loaded"),
    ):
        raise error
    assert refused.value.exit_status == 1
    assert "\n" not in str(refused.value)

    def work(_: int) -> int:
        raise error

    assert isinstance(perform(work, 0).error, MemoryLimitError)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with (
        pytest.raises(BackboneError, match="a model cannot be loaded"),
        loading_in_memory("a model"),
        refusals("a model cannot be loaded"),
    ):
        raise error


def test_an_error_that_was_raised_from_a_lack_of_memory_is_one() -> None:
    error = BackboneError("the vae cannot be loaded")
    error.__cause__ = MemoryError("no room")
    with pytest.raises(MemoryLimitError, match="no room"), loading_in_memory("a model"):
        raise error
