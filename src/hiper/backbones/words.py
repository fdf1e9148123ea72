"""Which rows of a sentence belong to which word."""

from __future__ import annotations

from typing import Any

from hiper.conditioning import END_OF_SENTENCE


def spelled(words: list[tuple[str, int]], length: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lay words, each with its number of tokens, between a start and an end mark in a table of `length` rows.

    Returns the word of each row in use, "" for the start mark, and the words that did not fit.
    """
    kept = length - 2
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
    start = 0
    for end, token in enumerate(tokenizer.convert_ids_to_tokens(ids), start=1):
        if token.endswith("</w>") or end == len(ids):
            words.append((str(tokenizer.decode(ids[start:end])), end - start))
            start = end
    return words
