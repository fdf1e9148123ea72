"""The tail's place in a CONDITIONING: in its token embeddings, and in the mask of those that the model attends to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .tail import Placement, Tail

Conditioning = list[list[Any]]
"""[[embeddings [batch, length, embed], {"pooled_output": ..., "attention_mask": ...}], ...], as ComfyUI has it."""

MASK, IMAGE_ROWS = "attention_mask", "attention_mask_img_shape"


def place_tail(conditioning: Conditioning, tail: Tail, strength: float, placement: Placement) -> Conditioning:
    """Return a conditioning with the tail times `strength` in each of its entries; at strength 0, the one given.

    A region, a range of steps, a ControlNet and pooled vectors stay as they are. An attention mask [batch, length]
    lets the tail through; token embeddings behind the last attended one are padding, before which the tail is put.

    Args:
        conditioning: is not changed.
        tail: fitted for token embeddings of this width.
        strength: factor on the tail; 0 bypasses the node, as it does for a LoRA.
        placement: `replace`: in the place of the last token embeddings, of the last chunk when a long prompt has
            several of 77; `append`: behind all token embeddings, so that no word is overwritten; the length grows.

    Raises:
        ValueError: the token embeddings are of another width, fewer than the tail's, or masked in a way that has
            no place for it.
    """
    if strength == 0:
        return conditioning
    return [_placed(embeddings, more, tail, strength, placement) for embeddings, more in conditioning]


def _placed(
    embeddings: Any, more: dict[str, Any], tail: Tail, strength: float, placement: Placement
) -> list[Any]:
    count = len(tail.embeddings)
    _check_width(embeddings, tail)
    mask = _mask(embeddings, more)
    end = embeddings.shape[1] if mask is None else _attended(mask)
    if placement == "replace" and end <= count:
        raise ValueError(f"a tail of {count} token embeddings cannot replace the end of {end}; append it")
    start = end if placement == "append" else end - count
    own = (
        (tail.embeddings * strength)
        .to(embeddings.device, embeddings.dtype)
        .expand(embeddings.shape[0], -1, -1)
    )
    placed = torch.cat([embeddings[:, :start], own, embeddings[:, end:]], dim=1)
    if mask is None:
        return [placed, dict(more)]
    seen = torch.ones_like(mask[:, :1]).expand(-1, count)
    return [placed, {**more, MASK: torch.cat([mask[:, :start], seen, mask[:, end:]], dim=1)}]


def _check_width(embeddings: Any, tail: Tail) -> None:
    if not isinstance(embeddings, Tensor):
        raise ValueError("this conditioning has no token embeddings, so that a tail has no place in it")
    if embeddings.shape[-1] != tail.embeddings.shape[1]:
        raise ValueError(
            f"the tail is for {tail.family} models, token embeddings of {tail.embeddings.shape[1]} numbers, and this"
            f" conditioning has such of {embeddings.shape[-1]}; use the text encoder of the model it was fitted on"
        )


def _mask(embeddings: Tensor, more: dict[str, Any]) -> Tensor | None:
    mask: Tensor | None = more.get(MASK)
    if mask is None:
        return None
    if more.get(IMAGE_ROWS) is not None or mask.ndim != 2 or mask.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"this conditioning's attention mask {list(mask.shape)} is not of its {embeddings.shape[1]} tokens"
            " alone, as behind Apply Style Model; apply the tail before that node"
        )
    return mask


def _attended(mask: Tensor) -> int:
    """Number of token embeddings up to the last one that any prompt of the batch attends to."""
    used = (mask != 0).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else mask.shape[1]
