"""Token embeddings and the tail: pure functions that take the tail out and put it in.

A text encoder turns a sentence into one embedding per token. The first ones hold the sentence, the last
ones are padding. HiPer learns only the last ones, the tail, and leaves the others to whatever sentence the
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

Init = Literal["caption", "zeros", "random", "padding-mean", "guess"]

END_OF_SENTENCE = "(the end mark)"


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The text conditioning of the denoiser: one encoded sentence, or a batch of them.

    Attributes:
        token_embeddings: [1 or batch, sequence_length, embed_dim], float32; tokens that a family masks are left out.
        num_tokens: Tokens in use: start mark, the sentence's tokens and the end mark; the rest is padding.
        prompt: The sentence.
        words_per_token: For each token in use the word it belongs to; "" for the start mark.
        truncated_words: Words beyond the encoder's maximum length.
        pooled: [1 or batch, pooled_dim], of encoders that also yield one vector for the whole sentence.
        tail: Positions of the learnt embeddings, counted from 0, in ascending order.
        notes: What the user should know of this sentence, one line each.
    """

    token_embeddings: Tensor
    num_tokens: int
    prompt: str
    words_per_token: tuple[str, ...] = ()
    truncated_words: tuple[str, ...] = ()
    pooled: Tensor | None = None
    tail: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sequence_length(self) -> int:
        """Number of token embeddings, padding included."""
        return self.token_embeddings.shape[1]


def take_tail(conditioning: Conditioning, count: int) -> Tensor:
    """Return the last `count` token embeddings as a new float32 tensor [tail, embed_dim], where a fit starts from.

    Short prompts are tiled; each copy is scaled by 1 % so that identical embeddings do not receive
    identical gradients.
    """
    own = conditioning.token_embeddings[0].detach().to(torch.float32)
    rounds = -(-count // len(own))
    return torch.cat([own * (1 + 0.01 * i) for i in reversed(range(rounds))])[-count:].clone()


def initial_tail(
    conditioning: Conditioning,
    count: int,
    init: Init,
    random: torch.Generator,
    guessed: Tensor | None = None,
) -> Tensor:
    """Return a new float32 tensor [tail, embed_dim], where a fit starts from.

    Embeddings that start equal stay equal, for the denoiser does not see their order: zeros and padding-mean learn one
    embedding that counts `count` times.

    Args:
        conditioning: The encoded caption.
        count: Number of token embeddings.
        init: "caption": the caption's own last embeddings (the paper). "zeros". "random": random directions with the
            norms of those. "padding-mean": the mean of the caption's padding, `count` times. "guess": the directions
            of `guessed` with the norms of those; where it has too few, the caption's own come first.
        random: Source of the random directions.
        guessed: [any, embed_dim], by the model's tail encoder.

    Raises:
        OptionError: "padding-mean" of a caption that leaves no padding.
    """
    own = take_tail(conditioning, count)
    if init == "zeros":
        return torch.zeros_like(own)
    if init == "random":
        return random_tail(own, random)
    if init == "caption":
        return own
    if init == "guess":
        assert guessed is not None
        taken = min(count, len(guessed))
        tail = torch.cat([own[: count - taken], guessed[:taken].to(own)])
        keep_norms(tail, torch.linalg.vector_norm(own, dim=1, keepdim=True))
        return tail
    if conditioning.num_tokens >= conditioning.sequence_length:
        raise OptionError("init is 'padding-mean', but the caption leaves no padding; shorten the caption")
    return (
        conditioning.token_embeddings[0, conditioning.num_tokens :]
        .detach()
        .float()
        .mean(0)
        .expand(count, -1)
        .clone()
    )


def keep_norms(tail: Tensor, norms: Tensor) -> None:
    """Rescale a tail [tail, embed_dim], in place and without a gradient, to `norms` [tail, 1].

    Embeddings learnt without this grow longer, and long ones drown the words beside them (Directional Textual
    Inversion, arXiv:2512.13672).
    """
    with torch.no_grad():
        tail.mul_(norms / torch.linalg.vector_norm(tail, dim=1, keepdim=True))


def random_tail(tail: Tensor, random: torch.Generator) -> Tensor:
    """Return embeddings of random directions with the norms of `tail` [tail, embed_dim]."""
    drawn = torch.randn(tail.shape, generator=random).to(tail.device)
    scaled: Tensor = F.normalize(drawn, dim=1) * torch.linalg.vector_norm(tail, dim=1, keepdim=True)
    return scaled


def tail_places(
    conditioning: Conditioning, count: int, placement: Placement, seed: int = 0
) -> tuple[int, ...]:
    """Return the positions, in ascending order, that a tail of `count` embeddings takes in a sentence.

    Args:
        conditioning: The encoded sentence.
        count: Number of token embeddings of the tail.
        placement: "replace": the last positions (the paper, figure 2). "append": after all, so that no word is
            overwritten. "after-words": after the end mark; the last positions where too few are left. "random": any
            but the start mark, words included, the same for every sentence.
        seed: Of "random".

    Raises:
        OptionError: A tail, other than an appended one, that leaves nothing of the sentence.
    """
    length = conditioning.sequence_length
    if placement == "append":
        return tuple(range(length, length + count))
    if count >= length:
        raise OptionError(
            f"the tail has {count} token embeddings and the sentence {length}; use placement=append"
        )
    if placement == "random":
        drawn = torch.randperm(length - 1, generator=generator(seed))[:count] + 1
        return tuple(sorted(drawn.tolist()))
    last = length - count
    first = min(conditioning.num_tokens, last) if placement == "after-words" else last
    return tuple(range(first, first + count))


def place_tail(conditioning: Conditioning, tail: Tensor, placement: Placement, seed: int = 0) -> Conditioning:
    """Put a tail [tail, embed_dim] into a sentence, where `tail_places` says; gradients flow to the tail."""
    embeddings, count = conditioning.token_embeddings, len(tail)
    places = tail_places(conditioning, count, placement, seed)
    own = tail[None].to(embeddings.device, embeddings.dtype)
    if placement == "random":  # by slices: an index would be copied to the device at every step of a fit
        ends = (*places[1:], conditioning.sequence_length)
        behind = [embeddings[:, place + 1 : end] for place, end in zip(places, ends, strict=True)]
        parts = [part for i in range(count) for part in (own[:, i : i + 1], behind[i])]
    else:
        parts = [own, embeddings[:, places[0] + count :]]
    placed = torch.cat([embeddings[:, : places[0]], *parts], dim=1)
    return replace(conditioning, token_embeddings=placed, tail=places)


def side_by_side(tails: Sequence[Tensor], strengths: Sequence[float]) -> Tensor:
    """Return one tail [sum of all lengths, embed_dim] of several [tail, embed_dim], each times its own factor."""
    return torch.cat([tail * strength for tail, strength in zip(tails, strengths, strict=True)])


def averaged(tails: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the mean [tail, embed_dim] of several tails of that shape, weighted with shares that sum to 1."""
    return torch.stack([tail * share for tail, share in zip(tails, shares, strict=True)]).sum(0)


def lengthened(conditioning: Conditioning, length: int) -> Conditioning:
    """Repeat the last token embeddings: a sentence without a tail gets as long as one with an appended tail."""
    missing = length - conditioning.sequence_length
    if not missing:
        return conditioning
    return replace(
        conditioning,
        token_embeddings=torch.cat(
            [conditioning.token_embeddings, conditioning.token_embeddings[:, -missing:]], dim=1
        ),
    )


def stacked(conditionings: Sequence[Conditioning]) -> Conditioning:
    """Put sentences of equal length into one batch; other attributes are those of the first."""
    pooled = [each.pooled for each in conditionings if each.pooled is not None]
    return replace(
        conditionings[0],
        token_embeddings=torch.cat([each.token_embeddings for each in conditionings]),
        pooled=torch.cat(pooled) if pooled else None,
    )


def expanded(conditioning: Conditioning, batch: int) -> Conditioning:
    """Repeat the one sentence, without a copy, for a batch; a batch stays what it is."""
    pooled = conditioning.pooled
    return replace(
        conditioning,
        token_embeddings=conditioning.token_embeddings.expand(batch, -1, -1),
        pooled=None if pooled is None else pooled.expand(batch, -1),
    )


def padded(conditionings: Sequence[Conditioning], batch: int, length: int = 0) -> tuple[Tensor, Tensor]:
    """Put sentences of any lengths into one batch, padded with zeros.

    Args:
        conditionings: One for all, or one per batch entry.
        batch: Entries of the batch.
        length: Of the result, at least; that of the longest sentence otherwise.

    Returns:
        Token embeddings [batch, length, embed_dim], and a mask [batch, length], 1 where one counts.
    """
    sentences = [embeddings for each in conditionings for embeddings in each.token_embeddings]
    length = max(length, *(len(embeddings) for embeddings in sentences))
    filled = torch.stack([F.pad(each, (0, 0, 0, length - len(each))) for each in sentences])
    counts = torch.tensor([len(embeddings) for embeddings in sentences], device=filled.device)
    mask = (torch.arange(length, device=filled.device) < counts[:, None]).long()
    return filled.expand(batch, -1, -1), mask.expand(batch, -1)


def overwritten_words(conditioning: Conditioning, places: Sequence[int]) -> tuple[str, ...]:
    """Return the words of the sentence, in order, that a tail at these positions would overwrite."""
    words = [
        conditioning.words_per_token[place] for place in places if place < len(conditioning.words_per_token)
    ]
    return tuple(dict.fromkeys(word for word in words if word))


def truncation_notes(conditioning: Conditioning) -> tuple[str, ...]:
    """Return a line that names the truncated words, if there are any."""
    if not conditioning.truncated_words:
        return ()
    words = " ".join(conditioning.truncated_words)
    cut = f"the text encoder reads {conditioning.sequence_length} tokens, so the end of the sentence was cut: {words}"
    return (f"{cut}; shorten the sentence",)


def tail_notes(
    conditioning: Conditioning, count: int, placement: Placement, seed: int = 0
) -> tuple[str, ...]:
    """Return one line for every way in which this sentence and a tail of `count` embeddings do not fit together."""
    notes = list(truncation_notes(conditioning))
    overwritten = overwritten_words(conditioning, tail_places(conditioning, count, placement, seed))
    if overwritten:
        notes.append(
            f"the sentence fills {conditioning.num_tokens} of {conditioning.sequence_length} tokens and the tail"
            f" overwrites {' '.join(overwritten)}; shorten the sentence, or fit with placement=append"
        )
    return tuple(notes)
