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

from hiper.errors import OptionError
from hiper.seeds import generator

TAIL, NEGATIVE = "tail", "negative"
"""Names of the tensors that are learnt; the second one, which no fit makes, follows the negative prompt."""

Placement = Literal["replace", "append", "after-words", "random"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)

Initial = Literal["caption", "zeros", "random", "padding-mean", "guess"]

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
    """Return the last `count` rows as a new float32 tensor [tail, embed], where a fit starts from.

    A sentence with fewer rows is gone through again, each time a hundredth longer: twins would stay twins.
    """
    rows = conditioning.rows[0].detach().to(torch.float32)
    rounds = -(-count // len(rows))
    return torch.cat([rows * (1 + 0.01 * i) for i in reversed(range(rounds))])[-count:].clone()


def initial_tail(
    conditioning: Conditioning,
    count: int,
    initial: Initial,
    random: torch.Generator,
    guessed: Tensor | None = None,
) -> Tensor:
    """Return a new float32 tensor [tail, embed], where a fit starts from.

    caption: the caption's own last rows (the paper); zeros; random: of random directions, as long as those rows;
    padding-mean: the mean of the caption's padding, `count` times. Rows that start alike stay alike, for the denoiser
    does not see their order: zeros and padding-mean learn one row that counts `count` times. guess: the directions
    of `guessed` [any, embed], as long as those rows; what it has too few stay the caption's own.

    OptionError for padding-mean of a caption that leaves no padding.
    """
    own = take_tail(conditioning, count)
    if initial == "zeros":
        return torch.zeros_like(own)
    if initial == "random":
        return random_rows(own, random)
    if initial == "caption":
        return own
    if initial == "guess":
        assert guessed is not None
        taken = min(count, len(guessed))
        rows = torch.cat([own[: count - taken], guessed[:taken].to(own)])
        keep_norms(rows, torch.linalg.vector_norm(own, dim=1, keepdim=True))
        return rows
    if conditioning.words >= conditioning.length:
        raise OptionError("initial is 'padding-mean', but the caption leaves no padding; shorten the caption")
    return conditioning.rows[0, conditioning.words :].detach().float().mean(0).expand(count, -1).clone()


def keep_norms(rows: Tensor, norms: Tensor) -> None:
    """Bring rows [count, embed] back, in place and without a gradient, to `norms` [count, 1].

    Rows learnt freely grow longer, and long rows drown the words beside them (Directional Textual Inversion,
    arXiv:2512.13672).
    """
    with torch.no_grad():
        rows.mul_(norms / torch.linalg.vector_norm(rows, dim=1, keepdim=True))


def random_rows(rows: Tensor, random: torch.Generator) -> Tensor:
    """Return rows of random directions with the norms of `rows` [count, embed]."""
    drawn = torch.randn(rows.shape, generator=random).to(rows.device)
    scaled: Tensor = F.normalize(drawn, dim=1) * torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return scaled


def tail_places(
    conditioning: Conditioning, count: int, placement: Placement, seed: int = 0
) -> tuple[int, ...]:
    """Return the places, in ascending order, that a tail of `count` rows takes in a sentence.

    replace:     the last rows (the paper, figure 2)
    append:      behind all rows, so that no word is ever overwritten
    after-words: the rows behind the end mark; the last rows where too few are left
    random:      drawn by `seed` from all but the start mark, words not spared, and the same for every sentence

    OptionError for a tail, other than an appended one, that leaves nothing of the sentence.
    """
    length = conditioning.length
    if placement == "append":
        return tuple(range(length, length + count))
    if count >= length:
        raise OptionError(f"the tail has {count} rows and the sentence {length}; use placement=append")
    if placement == "random":
        drawn = torch.randperm(length - 1, generator=generator(seed))[:count] + 1
        return tuple(sorted(drawn.tolist()))
    last = length - count
    first = min(conditioning.words, last) if placement == "after-words" else last
    return tuple(range(first, first + count))


def place_tail(conditioning: Conditioning, tail: Tensor, placement: Placement, seed: int = 0) -> Conditioning:
    """Put a tail [tail, embed] into a sentence, where `tail_places` says; gradients flow to the tail."""
    rows, count = conditioning.rows, len(tail)
    places = tail_places(conditioning, count, placement, seed)
    own = tail[None].to(rows.device, rows.dtype)
    if placement == "random":  # by slices: an index would be copied to the device at every step of a fit
        ends = (*places[1:], conditioning.length)
        behind = [rows[:, place + 1 : end] for place, end in zip(places, ends, strict=True)]
        pieces = [piece for i in range(count) for piece in (own[:, i : i + 1], behind[i])]
    else:
        pieces = [own, rows[:, places[0] + count :]]
    placed = torch.cat([rows[:, : places[0]], *pieces], dim=1)
    return replace(conditioning, rows=placed, tail=places)


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


def overwritten_words(conditioning: Conditioning, places: Sequence[int]) -> tuple[str, ...]:
    """Return the words of the sentence, in order, that rows in these places would overwrite."""
    pieces = [conditioning.pieces[place] for place in places if place < len(conditioning.pieces)]
    return tuple(dict.fromkeys(piece for piece in pieces if piece))


def lost_notes(conditioning: Conditioning) -> tuple[str, ...]:
    """Return a line that names the words that did not fit into the encoder's length, if there are any."""
    if not conditioning.lost:
        return ()
    words = " ".join(conditioning.lost)
    cut = f"the text encoder reads {conditioning.length} rows, so the end of the sentence was cut: {words}"
    return (f"{cut}; shorten the sentence",)


def tail_notes(
    conditioning: Conditioning, count: int, placement: Placement, seed: int = 0
) -> tuple[str, ...]:
    """Return one line for every way in which this sentence and a tail of `count` rows do not fit together."""
    notes = list(lost_notes(conditioning))
    overwritten = overwritten_words(conditioning, tail_places(conditioning, count, placement, seed))
    if overwritten:
        notes.append(
            f"the sentence fills {conditioning.words} of {conditioning.length} rows and the tail overwrites"
            f" {' '.join(overwritten)}; shorten the sentence, or fit with placement=append"
        )
    return tuple(notes)
