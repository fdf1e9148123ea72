"""Keys and values of text, computed once per drawing: they are the same at every step of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

from torch import Tensor, nn

_PROJECTIONS = ("attn2.to_k", "attn2.to_v")  # attn1 looks from cell to cell of the picture


@contextmanager
def texts_projected_once(unet: nn.Module) -> Iterator[None]:
    """Let what a UNet's cross-attention makes of its text be kept while the block runs.

    The picture stays the same, bit for bit. Kept are two tensors [batch, length, width] per layer.
    """
    layers = [layer for name, layer in unet.named_modules() if name.endswith(_PROJECTIONS)]
    own = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.__dict__["forward"] = _Kept(layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.__dict__["forward"]
            if forward is not None:
                layer.__dict__["forward"] = forward


@final
class _Kept:
    """A projection that remembers its answer about the tensor it was asked of last."""

    def __init__(self, projection: Callable[[Tensor], Tensor]) -> None:
        self._projection = projection
        self._embeddings: Tensor | None = None
        self._answer: Tensor | None = None

    def __call__(self, embeddings: Tensor) -> Tensor:
        if self._answer is None or embeddings is not self._embeddings:
            self._embeddings, self._answer = embeddings, self._projection(embeddings)
        return self._answer
