"""Tail in, tail out."""

from __future__ import annotations

import torch

from hiper.conditioning import (
    Conditioning,
    lengthened,
    overwritten_words,
    place_tail,
    tail_notes,
    take_tail,
)

LENGTH, EMBED = 8, 3


def sentence(*words: str) -> Conditioning:
    """A sentence in a table of 8 rows; row i is filled with i."""
    rows = torch.arange(LENGTH, dtype=torch.float32)[None, :, None].expand(1, LENGTH, EMBED)
    pieces = ("", *words[: LENGTH - 2], "(the end mark)")
    return Conditioning(
        rows=rows, words=len(pieces), prompt=" ".join(words), pieces=pieces, lost=words[LENGTH - 2 :]
    )


def test_the_tail_is_the_last_rows_and_a_copy() -> None:
    conditioning = sentence("a", "dog")
    tail = take_tail(conditioning, 2)
    assert tail[:, 0].tolist() == [6, 7]
    tail.zero_()
    assert conditioning.rows[0, -1, 0] == 7


def test_a_half_precision_sentence_gives_a_float32_tail() -> None:
    half = Conditioning(rows=torch.ones(1, 4, 2, dtype=torch.bfloat16), words=2, prompt="")
    assert take_tail(half, 1).dtype == torch.float32
    assert place_tail(half, take_tail(half, 1), "replace").rows.dtype == torch.bfloat16


def test_taking_and_placing_back_changes_nothing() -> None:
    conditioning = sentence("a", "dog")
    assert torch.equal(
        place_tail(conditioning, take_tail(conditioning, 3), "replace").rows, conditioning.rows
    )


def test_replacing_keeps_the_head_and_the_length() -> None:
    placed = place_tail(sentence("a", "dog"), torch.full((2, EMBED), 9.0), "replace")
    assert placed.rows[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 9, 9]


def test_appending_keeps_every_row() -> None:
    placed = place_tail(sentence("a", "dog"), torch.full((2, EMBED), 9.0), "append")
    assert placed.rows[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 9]
    assert placed.length == LENGTH + 2


def test_gradients_reach_the_tail_and_nothing_but_the_tail() -> None:
    for placement in ("replace", "append"):
        tail = torch.ones(2, EMBED, requires_grad=True)
        rows = place_tail(sentence("a"), tail, placement).rows
        (rows * torch.arange(rows.shape[1])[None, :, None]).sum().backward()  # type: ignore[no-untyped-call]
        assert tail.grad is not None
        assert tail.grad[:, 0].tolist() == [rows.shape[1] - 2, rows.shape[1] - 1]


def test_padding_repeats_the_last_rows() -> None:
    padded = lengthened(sentence("a"), 10)
    assert padded.rows[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 6, 7]


def test_overwritten_words_are_those_under_the_tail() -> None:
    short, full = sentence("a", "dog"), sentence("a", "very", "old", "brown", "dog")
    assert overwritten_words(short, 2) == ()
    assert overwritten_words(full, 2) == ("(the end mark)",)
    assert overwritten_words(full, 4) == ("brown", "dog", "(the end mark)")


def test_a_word_of_several_rows_is_named_once() -> None:
    assert overwritten_words(sentence("old", "dachshund", "dachshund", "dachshund"), 5) == (
        "dachshund",
        "(the end mark)",
    )


def test_notes_name_the_overwritten_words_and_offer_append() -> None:
    full = sentence("a", "very", "old", "brown", "dog")
    (note,) = tail_notes(full, 3, "replace")
    assert "dog" in note
    assert "placement=append" in note
    assert tail_notes(full, 3, "append") == ()


def test_notes_name_the_words_beyond_the_encoder() -> None:
    (note,) = tail_notes(sentence("a", "b", "c", "d", "e", "f", "grass", "house"), 2, "append")
    assert "grass house" in note
