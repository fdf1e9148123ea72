"""A CLIP tokenizer of our own: byte-level BPE in which every word of the grammar is one token."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from hiper.critters.captions import WORDS

LENGTH = 77


def build_tokenizer() -> CLIPTokenizer:
    """Train the byte-pair merges on the grammar's words; anything else falls back to bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator([*WORDS, *alphabet], trainer)
    learnt = json.loads(bpe.to_str())["model"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(learnt["vocab"]))
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in learnt["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)
