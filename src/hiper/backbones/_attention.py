"""What a UNet's cross-attention looks at, told while it runs; calls into diffusers that carry no types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor

from hiper.backbones.base import AttentionCallback, AttentionProbabilities

_CROSS = "attn2.processor"  # attn1 looks from cell to cell of the picture


@contextmanager
def watched(unet: Any, watch: AttentionCallback) -> Iterator[None]:
    """Wrap the processor of every cross-attention of the UNet; on leaving it has its own again."""
    own = dict(unet.attn_processors)
    unet.set_attn_processor({name: _wrapped(name, processor, watch) for name, processor in own.items()})
    try:
        yield
    finally:
        unet.set_attn_processor(own)


def _wrapped(name: str, processor: Any, watch: AttentionCallback) -> Any:
    return _Watched(name.removesuffix(".processor"), processor, watch) if name.endswith(_CROSS) else processor


@final
class _Watched:
    """Tells what the layer is about to do, and lets its own processor do it."""

    def __init__(self, layer: str, processor: Any, watch: AttentionCallback) -> None:
        self._layer, self._processor, self._watch = layer, processor, watch

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
        self._watch(AttentionProbabilities(layer=self._layer, probabilities=probabilities))
        output: Tensor = self._processor(
            attn,
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=attention_mask,
            **others,
        )
        return output


def _probabilities(attn: Any, cells: Tensor, rows: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax of queries and keys in float32, as in `diffusers.models.attention_processor.AttnProcessor`."""
    if attn.norm_cross:
        rows = attn.norm_encoder_hidden_states(rows)
    queries, keys = (
        attn.head_to_batch_dim(projected.detach().float())
        for projected in (attn.to_q(cells), attn.to_k(rows))
    )
    mask = attn.prepare_attention_mask(mask, rows.shape[1], len(rows))
    scores: Tensor = attn.get_attention_scores(queries, keys, mask)
    return scores.view(len(cells), attn.heads, *scores.shape[1:])
