"""Attention as a GPU's kernels do it: what a meta device would take for two products and a table of probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_aten = torch.ops.aten


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return `F.scaled_dot_product_attention` of meta tensors by the flash or the memory-efficient kernel."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    half = query.dtype in (torch.float16, torch.bfloat16)
    if attn_mask is None and half and query.shape[-1] <= 256 and query.shape[-1] % 8 == 0:
        flash: Tensor = _aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
        return flash
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            kept = torch.zeros(attn_mask.shape, dtype=query.dtype, device="meta")
            attn_mask = kept.masked_fill(attn_mask.logical_not(), -math.inf)
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    graph = query.requires_grad or key.requires_grad
    efficient: Tensor = _aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, graph, dropout_p, is_causal, scale=scale
    )[0]
    return efficient
