"""Sentences as diffusers' pipelines take them: token embeddings of both sides, and pooled vectors or masks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hiper.conditioning import Conditioning, expanded, lengthened, padded, stacked


def paired(positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Tensor]:
    """Return token embeddings, and pooled vectors where there are any, of both sides, equally long and equally many."""
    negative = stacked([lengthened(each, positive.sequence_length) for each in negatives])
    batch = max(len(positive.token_embeddings), len(negative.token_embeddings))
    return {**alone(expanded(positive, batch)), **alone(expanded(negative, batch), "negative_")}


def alone(conditioning: Conditioning, prefix: str = "") -> dict[str, Tensor]:
    """Return token embeddings, and pooled vectors where there are any, of one side."""
    vectors = {"prompt_embeds": conditioning.token_embeddings, "pooled_prompt_embeds": conditioning.pooled}
    return {f"{prefix}{name}": vector for name, vector in vectors.items() if vector is not None}


def masked(
    positive: Conditioning, negatives: Sequence[Conditioning], mask_name: str = "prompt_attention_mask"
) -> dict[str, Tensor]:
    """Return token embeddings of both sides, filled up to one length, and masks of what counts."""
    batch = max(len(positive.token_embeddings), len(negatives))
    length = max(each.sequence_length for each in (positive, *negatives))
    found = {}
    for prefix, side in (("", [positive]), ("negative_", negatives)):
        embeddings, mask = padded(side, batch, length)
        found[f"{prefix}prompt_embeds"], found[f"{prefix}{mask_name}"] = embeddings, mask
    return found
