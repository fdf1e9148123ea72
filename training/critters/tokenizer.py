"""A CLIP tokenizer of our own: byte-level BPE in which every word of the grammar is one token."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from hiper.critters import WORDS

LENGTH = 77
END_OF_WORD = "</w>"
Pair = tuple[str, str]


def build_tokenizer() -> CLIPTokenizer:
    """Learn the byte-pair merges of the grammar's words; anything else falls back to bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(WORDS)
    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(c + END_OF_WORD for c in alphabet)]
    tokens += [first + second for first, second in merges]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)


def learn_merges(words: list[str]) -> list[Pair]:
    """Merge the most frequent pair until every word is one token (BPE, arXiv:1508.07909, algorithm 1).

    Ties go to the pair that is first in the alphabet: the numbers of the tokens must be the same in every run, which
    the trainer of the tokenizers library does not promise.
    """
    split = [(*word[:-1], word[-1] + END_OF_WORD) for word in words]
    merges: list[Pair] = []
    while counts := Counter(pair for word in split for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        split = [_merge(word, best) for word in split]
    return merges


def _merge(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)
