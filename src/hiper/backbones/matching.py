"""Whether the components of a pipeline belong together, by their configurations; no weight is looked at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hiper.errors import BackboneError

_TEXT_WIDTHS = ("caption_channels", "joint_attention_dim", "cap_feat_dim", "cross_attention_dim")
_WORDS = ("dog", "cat")
_AGAIN = "download the model again"
_SIZES = 6  # numbers by which SDXL knows a picture's size and crop (arXiv:2307.01952, section 2.2)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the components of a family fit together.

    Attributes:
        patch: Side, in latent cells, of the square that is one cell of the denoiser's input, channel behind channel.
        token_encoders: Text encoders whose token embeddings are concatenated along `embed_dim`.
        pooled: Text encoders whose pooled vectors stand side by side in the one that the denoiser reads.
        optional: Which of these a pipeline may go without.
        chat: Sentences are wrapped as a turn of a chat, by the tokenizer's template.
    """

    patch: int = 1
    token_encoders: tuple[str, ...] = ("text_encoder",)
    pooled: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    chat: bool = False


def check_components(pipe: Any, denoiser: str, layout: Layout, name: str) -> None:
    """Check that a pipeline has the components it needs, and that their channels and widths fit.

    Args:
        pipe: A diffusers pipeline.
        denoiser: The component that is called once per step.
        layout: The family's.
        name: What to call the model in a message.

    Raises:
        BackboneError: One is missing; a tokenizer is not its text encoder's, or lacks its files; the denoiser takes
            other latent channels than the vae makes, as models for inpainting do; or a text encoder is not the
            denoiser's.
    """
    encoders = {*layout.token_encoders, *layout.pooled} - set(layout.optional)
    tokenizers = {each.replace("text_encoder", "tokenizer") for each in encoders}
    for component in (denoiser, "vae", "scheduler", *sorted(encoders | tokenizers)):
        if getattr(pipe, component, None) is None:
            raise BackboneError(f"{name} has no {component}; the whole pipeline is needed")
    check_tokenizers(pipe, layout, name)
    config, vae = getattr(pipe, denoiser).config, pipe.vae.config
    taken = int(config.in_channels)
    made = int(vae.get("latent_channels") or vae["z_dim"]) * layout.patch**2
    if taken != made:
        raise BackboneError(
            f"{name} takes {taken} latent channels where its vae makes {made} (inpainting, depth or the like, or"
            " another model's vae); allowed are text-to-image models"
        )
    token_encoders = [getattr(pipe, each) for each in layout.token_encoders]
    if None not in token_encoders:
        wanted = next(config[each] for each in _TEXT_WIDTHS if each in config)
        _check_width(name, "token embeddings", wanted, sum(map(_token_width, token_encoders)))
    _check_width(
        name,
        "pooled vectors",
        _pooled(config),
        sum(_pooled_width(getattr(pipe, each)) for each in layout.pooled),
    )


def check_tokenizers(pipe: Any, layout: Layout, name: str) -> None:
    """Check that each text encoder's tokenizer knows words, and cuts sentences at what the encoder can read.

    One whose files are missing is made without any word: every sentence is the same to it.

    Args:
        pipe: A diffusers pipeline.
        layout: The family's.
        name: What to call the model in a message.

    Raises:
        BackboneError: It is not so, or a tokenizer lacks the template of a chat where the family takes one.
    """
    for each, which, encoder, tokenizer in _readers(pipe, layout):
        if not _knows_words(tokenizer):
            raise BackboneError(f"{name}: {which} knows no words, its vocabulary is not whole; {_AGAIN}")
        longest, places = tokenizer.model_max_length, _places(encoder)
        if longest > places:
            raise BackboneError(
                f"{name}: {which} cuts sentences at {longest} tokens, {each} has places for {places}; set"
                f" model_max_length to {places} in tokenizer_config.json"
            )
        if layout.chat and not tokenizer.chat_template:
            raise BackboneError(f"{name}: {which} has no chat_template, its files are not whole; {_AGAIN}")


def check_sentence(pipe: Any, layout: Layout, name: str, sentence: str) -> None:
    """Check that the text encoders have an embedding for each token of a sentence, added ones included.

    Args:
        pipe: A diffusers pipeline.
        layout: The family's.
        name: What to call the model in a message.
        sentence: What is to be encoded.

    Raises:
        BackboneError: It has one.
    """
    for each, which, encoder, tokenizer in _readers(pipe, layout):
        largest, known = max(tokenizer(sentence)["input_ids"], default=0), _num_embeddings(encoder)
        if largest >= known:
            raise BackboneError(
                f"{name}: {which} reads {tokenizer.convert_ids_to_tokens(largest)!r} as token {largest}, {each} has"
                f" {known} embeddings; they are of different models, or tokens were added without"
                " resize_token_embeddings"
            )


def _num_embeddings(encoder: Any) -> int:
    return int(encoder.get_input_embeddings().num_embeddings)  # an offloaded one has no weight


def _readers(pipe: Any, layout: Layout) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield the text encoders with their tokenizers, where both are there: their names, then they."""
    for each in dict.fromkeys((*layout.token_encoders, *layout.pooled)):
        which = each.replace("text_encoder", "tokenizer")
        if getattr(pipe, each) is not None and getattr(pipe, which) is not None:
            yield each, which, getattr(pipe, each), getattr(pipe, which)


def _knows_words(tokenizer: Any) -> bool:
    """Tell a tokenizer to which all words are one, or which spells what it has a token for, from a whole one."""
    word, other = (tokenizer(each)["input_ids"] for each in _WORDS)
    known = tokenizer.get_vocab().keys() & {
        _WORDS[0] + "</w>",
        "\u2581" + _WORDS[0],
    }  # of CLIP, of SentencePiece
    return bool(word != other) and not (known and len(tokenizer.tokenize(_WORDS[0])) > 1)


def _places(encoder: Any) -> float:
    """Return how many tokens a text encoder reads whose tokenizer alone says where to cut: one of CLIP's."""
    config = encoder.config
    return int(config.max_position_embeddings) if str(config.model_type).startswith("clip") else math.inf


def _check_width(name: str, what: str, wanted: object, found: int) -> None:
    if wanted != found:
        raise BackboneError(
            f"{name}: the denoiser reads {what} of {wanted} numbers, the text encoders make {found};"
            " they are of different models"
        )


def _token_width(encoder: Any) -> int:
    return int(encoder.config.get_text_config().hidden_size)


def _pooled_width(encoder: Any) -> int:
    projected = hasattr(encoder, "text_projection")
    return int(encoder.config.projection_dim if projected else encoder.config.hidden_size)


def _pooled(config: Any) -> int:
    """Return how many numbers of a pooled vector a denoiser reads."""
    if config.get("addition_embed_type") == "text_time":
        return int(config.projection_class_embeddings_input_dim) - _SIZES * int(
            config.addition_time_embed_dim
        )
    return int(config.get("pooled_projection_dim") or 0)
