"""Capture a UNet's cross-attention while it runs; calls into diffusers, which carry no types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor

from hiper.backbones.base import AttentionCallback, AttentionProbabilities

_CROSS = "attn2.processor"  # attn1 is the self-attention of the picture


@contextmanager
def captured(unet: Any, callback: AttentionCallback) -> Iterator[None]:
    """Wrap the processor of every cross-attention of the UNet; on leaving it has its own again."""
    own = dict(unet.attn_processors)
    unet.set_attn_processor({name: _wrapped(name, processor, callback) for name, processor in own.items()})
    try:
        yield
    finally:
        unet.set_attn_processor(own)


def _wrapped(name: str, processor: Any, callback: AttentionCallback) -> Any:
    if not name.endswith(_CROSS):
        return processor
    return _CapturingProcessor(name.removesuffix(".processor"), processor, callback)


@final
class _CapturingProcessor:
    """Calls back with the layer's attention probabilities, then runs the layer's own processor."""

    def __init__(self, layer: str, processor: Any, callback: AttentionCallback) -> None:
        self._layer, self._processor, self._callback = layer, processor, callback

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        assert encoder_hidden_states is not None
        probabilities = _probabilities(attn, hidden_states, encoder_hidden_states, attention_mask)
        self._callback(AttentionProbabilities(layer=self._layer, probabilities=probabilities))
        output: Tensor = self._processor(
            attn,
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=attention_mask,
            **others,
        )
        return output


def _probabilities(attn: Any, cells: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax of queries and keys in float32, as in `diffusers.models.attention_processor.AttnProcessor`."""
    if attn.norm_cross:
        tokens = attn.norm_encoder_hidden_states(tokens)
    queries, keys = (
        attn.head_to_batch_dim(projected.detach().float())
        for projected in (attn.to_q(cells), attn.to_k(tokens))
    )
    mask = attn.prepare_attention_mask(mask, tokens.shape[1], len(tokens))
    scores: Tensor = attn.get_attention_scores(queries, keys, mask)
    return scores.view(len(cells), attn.heads, *scores.shape[1:])
