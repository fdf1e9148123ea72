"""Text rows and the tail: pure functions that take the tail out and put it in.

A text encoder turns a sentence into a table of rows. The first rows hold the sentence, the last ones
are padding. HiPer learns only the last rows, the tail, and leaves the head to whatever sentence the
user writes next (arXiv:2303.08767, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Placement = Literal["replace", "append"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)

END_OF_SENTENCE = "(the end mark)"


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What the denoiser is told of one sentence, or of a batch of them.

    rows:   [1 or batch, length, embed], float32; rows that a family masks are left out, so all of them count
    words:  rows in use: start mark, the sentence's tokens and the end mark; the rest is padding
    prompt: the sentence
    pieces: for each row in use the word it belongs to; "" for the start mark
    lost:   words that did not fit into the encoder's length
    pooled: [1 or batch, pooled] of encoders that also yield one vector for the whole sentence
    tail:   places of the rows that were learnt, counted from 0, in ascending order
    notes:  what the user should know of this sentence, one line each
    """

    rows: Tensor
    words: int
    prompt: str
    pieces: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    pooled: Tensor | None = None
    tail: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Number of text rows."""
        return self.rows.shape[1]


def take_tail(conditioning: Conditioning, count: int) -> Tensor:
    """Return the last `count` rows as a new float32 tensor [tail, embed], where a fit starts from."""
    return conditioning.rows[0, -count:].detach().to(torch.float32).clone()


def place_tail(conditioning: Conditioning, tail: Tensor, placement: Placement) -> Conditioning:
    """Put a tail [tail, embed] behind the head of a sentence; gradients flow to the tail.

    replace: the tail takes the place of the last rows (the paper, figure 2); the length stays.
    append:  the tail follows all rows, so that no word is ever overwritten; the length grows.
    """
    head = conditioning.rows if placement == "append" else conditioning.rows[:, : -tail.shape[0]]
    rows = torch.cat([head, tail[None].to(head.device, head.dtype)], dim=1)
    return replace(conditioning, rows=rows, tail=tuple(range(head.shape[1], rows.shape[1])))


def side_by_side(tails: Sequence[Tensor], strengths: Sequence[float]) -> Tensor:
    """Return one tail [sum of all rows, embed] of several [tail, embed], each times its own factor."""
    return torch.cat([tail * strength for tail, strength in zip(tails, strengths, strict=True)])


def averaged(tails: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the mean [tail, embed] of several tails of that shape, weighted with shares that sum to 1."""
    return torch.stack([tail * share for tail, share in zip(tails, shares, strict=True)]).sum(0)


def lengthened(conditioning: Conditioning, length: int) -> Conditioning:
    """Repeat the last rows: a sentence without a tail gets as long as one with an appended tail."""
    missing = length - conditioning.length
    if not missing:
        return conditioning
    return replace(conditioning, rows=torch.cat([conditioning.rows, conditioning.rows[:, -missing:]], dim=1))


def stacked(conditionings: Sequence[Conditioning]) -> Conditioning:
    """Put sentences of equal length into one batch; what is said of a single sentence is the first one's."""
    pooled = [each.pooled for each in conditionings if each.pooled is not None]
    return replace(
        conditionings[0],
        rows=torch.cat([each.rows for each in conditionings]),
        pooled=torch.cat(pooled) if pooled else None,
    )


def expanded(conditioning: Conditioning, batch: int) -> Conditioning:
    """Repeat the one sentence, without a copy, for a batch; a batch stays what it is."""
    pooled = conditioning.pooled
    return replace(
        conditioning,
        rows=conditioning.rows.expand(batch, -1, -1),
        pooled=None if pooled is None else pooled.expand(batch, -1),
    )


def padded(conditionings: Sequence[Conditioning], batch: int, length: int = 0) -> tuple[Tensor, Tensor]:
    """Put sentences of any lengths, one for all or one per batch entry, into one table filled up with zeros.

    Returns rows [batch, length, embed] and a mask [batch, length], 1 where a row counts; `length` is at least that
    of the longest sentence.
    """
    tables = [rows for each in conditionings for rows in each.rows]
    length = max(length, *(len(rows) for rows in tables))
    filled = torch.stack([F.pad(rows, (0, 0, 0, length - len(rows))) for rows in tables])
    counts = torch.tensor([len(rows) for rows in tables], device=filled.device)
    mask = (torch.arange(length, device=filled.device) < counts[:, None]).long()
    return filled.expand(batch, -1, -1), mask.expand(batch, -1)


def overwritten_words(conditioning: Conditioning, count: int) -> tuple[str, ...]:
    """Return the words of the sentence, in order, that a replacing tail of `count` rows would overwrite."""
    pieces = conditioning.pieces[conditioning.length - count :]
    return tuple(dict.fromkeys(piece for piece in pieces if piece))


def lost_notes(conditioning: Conditioning) -> tuple[str, ...]:
    """Return a line that names the words that did not fit into the encoder's length, if there are any."""
    if not conditioning.lost:
        return ()
    words = " ".join(conditioning.lost)
    cut = f"the text encoder reads {conditioning.length} rows, so the end of the sentence was cut: {words}"
    return (f"{cut}; shorten the sentence",)


def tail_notes(conditioning: Conditioning, count: int, placement: Placement) -> tuple[str, ...]:
    """Return one line for every way in which this sentence and a tail of `count` rows do not fit together."""
    notes = list(lost_notes(conditioning))
    overwritten = overwritten_words(conditioning, count) if placement == "replace" else ()
    if overwritten:
        notes.append(
            f"the sentence fills {conditioning.words} of {conditioning.length} rows and the tail overwrites"
            f" {' '.join(overwritten)}; shorten the sentence, or fit with placement=append"
        )
    return tuple(notes)
