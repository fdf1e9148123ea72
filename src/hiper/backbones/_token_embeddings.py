"""Let a word stand for vectors of one's own: neither a tokenizer nor a weight of the model is changed.

A copy of the tokenizer knows the word. The text encoder is handed an ordinary token at its places, and what it looks
up there is replaced. Calls into transformers that carry no types.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor

_PLAIN = 0  # any token will do; the lowest one is never taken for the end of a sentence


def encoders(pipe: Any) -> dict[str, str]:
    """Return the names of the pipeline's text encoders and of their tokenizers."""
    endings = [
        ending for ending in ("", "_2", "_3") if getattr(pipe, f"text_encoder{ending}", None) is not None
    ]
    return {f"text_encoder{ending}": f"tokenizer{ending}" for ending in endings}


def stand_ins(count: int) -> list[str]:
    """Return the words by which a sentence names `count` vectors while they are encoded in place of a word."""
    return [f"<|{i}|>" for i in range(count)]


def extended(tokenizer: Any, count: int) -> Any:
    """Return a copy of the tokenizer that knows the stand-ins."""
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens([AddedToken(name, normalized=False) for name in stand_ins(count)])
    return larger


def vectors_of(pipe: Any, word: str) -> dict[str, Tensor]:
    """Return what each text encoder looks up for a word [1, width], float32; the mean where it is several tokens."""
    found = {}
    for encoder, tokenizer in encoders(pipe).items():
        ids = getattr(pipe, tokenizer)(word, add_special_tokens=False).input_ids
        table = getattr(pipe, encoder).get_input_embeddings().weight.detach()
        found[encoder] = table[ids].float().mean(dim=0, keepdim=True)
    return found


@contextmanager
def encode_with_token_embeddings(
    pipe: Any, tokenizers: Mapping[str, Any], vectors: Mapping[str, Tensor]
) -> Iterator[None]:
    """Let the pipeline's tokenizers know the placeholders while the block runs.

    Args:
        pipe: The pipeline.
        tokenizers: `extended` ones, by name.
        vectors: Text encoder to [count, width], to which gradients flow.
    """
    with ExitStack() as stack:
        for encoder, name in encoders(pipe).items():
            stack.callback(setattr, pipe, name, getattr(pipe, name))
            setattr(pipe, name, tokenizers[name])
            ids = tokenizers[name].convert_tokens_to_ids(stand_ins(len(vectors[encoder])))
            stack.enter_context(_standing(getattr(pipe, encoder), ids, vectors[encoder]))
        yield


@contextmanager
def _standing(encoder: Any, ids: list[int], vectors: Tensor) -> Iterator[None]:
    """Let tokens unknown to the encoder stand for vectors [count, width]."""
    numbers: list[Tensor] = []  # of the vector at each place of the sentence under way, -1: none

    def hide(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        number = torch.full_like(tokens, -1)
        for i, token in enumerate(ids):
            number[tokens == token] = i
        numbers[:] = [number]
        plain = tokens.masked_fill(number >= 0, _PLAIN)
        if "input_ids" in kwargs:
            return args, {**kwargs, "input_ids": plain}
        return (plain, *args[1:]), kwargs

    def replace(module: Any, args: Any, looked_up: Tensor) -> Tensor:
        number = numbers[0].to(looked_up.device).view(looked_up.shape[:-1])
        own = vectors.to(looked_up.device, looked_up.dtype)[number.clamp(min=0)]
        return torch.where((number >= 0)[..., None], own, looked_up)

    table = encoder.get_input_embeddings().weight
    looking_up = [part for part in encoder.modules() if getattr(part, "weight", None) is table]  # T5 has two
    hooks = [
        encoder.register_forward_pre_hook(hide, with_kwargs=True),
        *(part.register_forward_hook(replace) for part in looking_up),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
