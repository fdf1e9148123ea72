"""The kinds of text tokens: a mark, a word, padding, or learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hiper.conditioning import Conditioning

Kind = Literal["start", "word", "end", "padding", "tail"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class LabelledToken:
    """One text token.

    Attributes:
        index: Its place.
        kind: Its kind.
        text: The word it belongs to, "" for all but words.
    """

    index: int
    kind: Kind
    text: str


def label_tokens(conditioning: Conditioning) -> tuple[LabelledToken, ...]:
    """Label every token of one prompt; one that was learnt is tail, whatever it replaced."""
    return tuple(_row(conditioning, index) for index in range(conditioning.sequence_length))


def places(tokens: Sequence[LabelledToken], kind: Kind) -> list[int]:
    """Return the indices of the tokens of one kind."""
    return [token.index for token in tokens if token.kind == kind]


def _row(conditioning: Conditioning, index: int) -> LabelledToken:
    if index in conditioning.tail:
        return LabelledToken(index=index, kind="tail", text="")
    if index >= conditioning.num_tokens:
        return LabelledToken(index=index, kind="padding", text="")
    if index == conditioning.num_tokens - 1:
        return LabelledToken(index=index, kind="end", text="")
    word = conditioning.words_per_token[index]
    return LabelledToken(index=index, kind="word" if word else "start", text=word)
