"""Tail in, tail out."""

from __future__ import annotations

import pytest
import torch

from hiper.conditioning import (
    PLACEMENTS,
    Conditioning,
    Placement,
    initial_tail,
    lengthened,
    place_tail,
    tail_notes,
    take_tail,
)
from hiper.conditioning.embeddings import overwritten_words, tail_places
from hiper.errors import OptionError
from hiper.seeds import generator

LENGTH, EMBED = 8, 3


def sentence(*words: str) -> Conditioning:
    """A sentence in a table of 8 rows; row i is filled with i."""
    rows = torch.arange(LENGTH, dtype=torch.float32)[None, :, None].expand(1, LENGTH, EMBED)
    pieces = ("", *words[: LENGTH - 2], "(the end mark)")
    return Conditioning(
        token_embeddings=rows,
        num_tokens=len(pieces),
        prompt=" ".join(words),
        words_per_token=pieces,
        truncated_words=words[LENGTH - 2 :],
    )


def test_the_tail_is_the_last_rows_and_a_copy() -> None:
    conditioning = sentence("a", "dog")
    tail = take_tail(conditioning, 2)
    assert tail[:, 0].tolist() == [6, 7]
    tail.zero_()
    assert conditioning.token_embeddings[0, -1, 0] == 7


def test_a_half_precision_sentence_gives_a_float32_tail() -> None:
    half = Conditioning(token_embeddings=torch.ones(1, 4, 2, dtype=torch.bfloat16), num_tokens=2, prompt="")
    assert take_tail(half, 1).dtype == torch.float32
    assert place_tail(half, take_tail(half, 1), "replace").token_embeddings.dtype == torch.bfloat16


def test_taking_and_placing_back_changes_nothing() -> None:
    conditioning = sentence("a", "dog")
    assert torch.equal(
        place_tail(conditioning, take_tail(conditioning, 3), "replace").token_embeddings,
        conditioning.token_embeddings,
    )


def test_replacing_keeps_the_head_and_the_length() -> None:
    placed = place_tail(sentence("a", "dog"), torch.full((2, EMBED), 9.0), "replace")
    assert placed.token_embeddings[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 9, 9]


def test_appending_keeps_every_row() -> None:
    placed = place_tail(sentence("a", "dog"), torch.full((2, EMBED), 9.0), "append")
    assert placed.token_embeddings[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 9]
    assert placed.sequence_length == LENGTH + 2


def test_after_the_words_the_tail_takes_the_first_padding() -> None:
    tail = torch.full((2, EMBED), 9.0)
    assert place_tail(sentence("a", "dog"), tail, "after-words").token_embeddings[0, :, 0].tolist() == [
        0,
        1,
        2,
        3,
        9,
        9,
        6,
        7,
    ]
    full = sentence("a", "very", "old", "brown", "dog")
    assert tail_places(full, 2, "after-words") == tail_places(full, 2, "replace") == (6, 7)


def test_random_places_are_those_of_their_seed_whatever_the_sentence() -> None:
    drawn = {tail_places(sentence("a"), 3, "random", seed) for seed in range(200)}
    for places in drawn:
        assert len(set(places)) == 3
        assert list(places) == sorted(places)
        assert 1 <= min(places) < max(places) < LENGTH
    assert {place for places in drawn for place in places} == set(range(1, LENGTH))
    assert tail_places(sentence("a"), 3, "random", 5) == tail_places(
        sentence("an", "old", "dog"), 3, "random", 5
    )
    placed = place_tail(sentence("a"), torch.full((3, EMBED), 9.0), "random", 5)
    assert [place for place, row in enumerate(placed.token_embeddings[0, :, 0].tolist()) if row == 9] == list(
        placed.tail
    )


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_gradients_reach_the_tail_and_nothing_but_the_tail(placement: Placement) -> None:
    tail = torch.ones(2, EMBED, requires_grad=True)
    placed = place_tail(sentence("a"), tail, placement, seed=1)
    (placed.token_embeddings * torch.arange(placed.sequence_length)[None, :, None]).sum().backward()  # type: ignore[no-untyped-call]
    assert tail.grad is not None
    assert tuple(tail.grad[:, 0].tolist()) == placed.tail == tail_places(sentence("a"), 2, placement, seed=1)


@pytest.mark.parametrize("placement", ["replace", "after-words", "random"])
def test_a_tail_that_leaves_nothing_of_the_sentence_is_refused(placement: Placement) -> None:
    with pytest.raises(OptionError, match="placement=append"):
        tail_places(sentence("a"), LENGTH, placement)


def test_where_a_fit_starts_from() -> None:
    conditioning = sentence("a", "dog")
    random = generator(3)
    assert torch.equal(initial_tail(conditioning, 2, "caption", random), take_tail(conditioning, 2))
    assert initial_tail(conditioning, 2, "zeros", random).tolist() == [[0.0] * EMBED] * 2
    assert (
        initial_tail(conditioning, 2, "padding-mean", random).tolist() == [[5.5] * EMBED] * 2
    )  # rows 4 to 7
    drawn = initial_tail(conditioning, 2, "random", random)
    assert torch.allclose(drawn.norm(dim=1), take_tail(conditioning, 2).norm(dim=1))
    assert not torch.allclose(drawn, initial_tail(conditioning, 2, "random", random))
    assert torch.equal(drawn, initial_tail(conditioning, 2, "random", generator(3)))
    with pytest.raises(OptionError, match="leaves no padding"):
        initial_tail(sentence("a", "very", "old", "small", "brown", "dog"), 2, "padding-mean", random)


def test_padding_repeats_the_last_rows() -> None:
    padded = lengthened(sentence("a"), 10)
    assert padded.token_embeddings[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 6, 7]


def test_overwritten_words_are_those_under_the_tail() -> None:
    short, full = sentence("a", "dog"), sentence("a", "very", "old", "brown", "dog")
    assert overwritten_words(short, (6, 7)) == ()
    assert overwritten_words(full, (6, 7)) == ("(the end mark)",)
    assert overwritten_words(full, (4, 5, 6, 7, 8)) == ("brown", "dog", "(the end mark)")
    assert overwritten_words(full, (0, 2)) == ("very",)


def test_a_word_of_several_rows_is_named_once() -> None:
    assert overwritten_words(sentence("old", "dachshund", "dachshund", "dachshund"), range(3, 8)) == (
        "dachshund",
        "(the end mark)",
    )


def test_notes_name_the_overwritten_words_and_offer_append() -> None:
    full = sentence("a", "very", "old", "brown", "dog")
    (note,) = tail_notes(full, 3, "replace")
    assert "dog" in note
    assert "placement=append" in note
    assert tail_notes(full, 3, "append") == ()
    (note,) = tail_notes(full, 7, "random", seed=0)
    assert "overwrites a very old brown dog (the end mark)" in note


def test_notes_name_the_words_beyond_the_encoder() -> None:
    (note,) = tail_notes(sentence("a", "b", "c", "d", "e", "f", "grass", "house"), 2, "append")
    assert "grass house" in note
