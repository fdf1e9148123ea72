"""A GPU that is not there: tensors that only say they lie on one, whose mistakes are found on any computer.

    with fake_gpu() as gpu:
        model.to("cuda"); model(torch.ones(1, device="cuda"))   # a tensor left on the CPU is refused, as a GPU would
    gpu.kernels, gpu.syncs, gpu.built

See `placed` for how, and `methods` for every method on it. It rests on two documented extension points of torch,
`__torch_function__` and `__torch_dispatch__` with their modes, and on no compiled code.
"""

from __future__ import annotations

from benchmarks.fake_gpu.kernels import Kernels, Mismatch
from benchmarks.fake_gpu.placed import Placed, fake_gpu

__all__ = ["Kernels", "Mismatch", "Placed", "fake_gpu"]
