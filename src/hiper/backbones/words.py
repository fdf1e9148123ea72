"""Which token embeddings of a sentence belong to which word."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from hiper.conditioning import END_OF_SENTENCE, Conditioning

_WORD = re.compile(r"<\|\d+\|>|\w+|[^\w\s]")  # the first kind stands in for a learnt word
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"  # found in no template


def spelled(words: list[tuple[str, int]], max_length: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lay words, each with its number of tokens, between a start and an end mark in `max_length` places.

    Returns the word of each token in use, "" for the start mark, and the words that did not fit.
    """
    kept = max_length - 2
    spoken: list[str] = []
    lost = []
    for word, tokens in words:
        spoken += [word] * tokens
        if len(spoken) > kept:
            lost.append(word)
    return ("", *spoken[:kept], END_OF_SENTENCE), tuple(lost)


def clip_words(tokenizer: Any, prompt: str) -> list[tuple[str, int]]:
    """Split a sentence into its words, each with the number of tokens it takes in CLIP's byte-pair encoding."""
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    words: list[tuple[str, int]] = []
    added = tokenizer.get_added_vocab()
    start = 0
    for end, token in enumerate(tokenizer.convert_ids_to_tokens(ids), start=1):
        if token.endswith("</w>") or token in added or end == len(ids):
            word = str(tokenizer.decode(ids[start:end])).removesuffix(
                "</w>"
            )  # an extended tokenizer leaves it
            words.append((word, end - start))
            start = end
    return words


def token_words(
    tokenizer: Any, text: str, prompt: str, *, start: int, max_length: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Assign each token of a text to a word of the prompt.

    Args:
        tokenizer: Of transformers.
        text: What the encoder reads, the prompt inside a template.
        prompt: The prompt.
        start: Where in the text it begins.
        max_length: Tokens that are read, marks included.

    Returns:
        The word of each token, "" for those of the template, and the words that were truncated.
    """
    kept = tokenizer(text, truncation=True, max_length=max_length, return_offsets_mapping=True)
    spans = [(start + found.start(), start + found.end(), found.group()) for found in _WORD.finditer(prompt)]
    ends = [end for _, end in kept.offset_mapping]
    pieces = [next((word for a, b, word in spans if a < end <= b), "") for end in ends]
    if kept.input_ids and kept.input_ids[-1] == tokenizer.eos_token_id:
        pieces[-1] = END_OF_SENTENCE
    return tuple(pieces), tuple(word for _, b, word in spans if b > max(ends, default=0))


def chat_words(
    tokenizer: Any, prompt: str, *, max_length: int, **template: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Do as `token_words` for a prompt that a language model reads as a user's message."""

    def said(content: str) -> str:
        messages = [{"role": "user", "content": content}]
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **template
        )
        return text

    start = said(_MARK).index(_MARK)
    return token_words(tokenizer, said(prompt), prompt, start=start, max_length=max_length)


def as_conditioning(
    prompt: str,
    embeddings: Tensor,
    words: tuple[str, ...],
    truncated: tuple[str, ...],
    pooled: Tensor | None = None,
) -> Conditioning:
    """Return what a family's encoder made of a prompt, in float32.

    Args:
        prompt: The prompt.
        embeddings: [1, length, embed_dim], of any dtype.
        words: The word of each token in use, as `token_words` returns them.
        truncated: The words that were truncated.
        pooled: [1, pooled], of encoders that also give one vector for the whole prompt.
    """
    return Conditioning(
        token_embeddings=embeddings.float(),
        num_tokens=len(words),
        prompt=prompt,
        words_per_token=words,
        truncated_words=truncated,
        pooled=None if pooled is None else pooled.float(),
    )
