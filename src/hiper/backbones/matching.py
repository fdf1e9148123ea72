"""Whether the components of a pipeline belong together, by their configurations; no weight is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hiper.errors import BackboneError

_TEXT_WIDTHS = ("caption_channels", "joint_attention_dim", "cap_feat_dim", "cross_attention_dim")
_SIZES = 6  # numbers by which SDXL knows a picture's size and crop (arXiv:2307.01952, section 2.2)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the components of a family fit together.

    Attributes:
        patch: Side, in latent cells, of the square that is one cell of the denoiser's input, channel behind channel.
        rows: Text encoders whose embeddings stand side by side in a row of the denoiser's table.
        pooled: Text encoders whose pooled vectors stand side by side in the one that the denoiser reads.
        optional: Which of these a pipeline may go without.
    """

    patch: int = 1
    rows: tuple[str, ...] = ("text_encoder",)
    pooled: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def check_components(pipe: Any, denoiser: str, layout: Layout, name: str) -> None:
    """Check that a pipeline has the components it needs, and that their channels and widths fit.

    Args:
        pipe: A diffusers pipeline.
        denoiser: The component that is called once per step.
        layout: The family's.
        name: What to call the model in a message.

    Raises:
        BackboneError: One is missing; the denoiser takes other latent channels than the vae makes, as models for
            inpainting do; or a text encoder is not the denoiser's.
    """
    encoders = {*layout.rows, *layout.pooled} - set(layout.optional)
    tokenizers = {each.replace("text_encoder", "tokenizer") for each in encoders}
    for component in (denoiser, "vae", "scheduler", *sorted(encoders | tokenizers)):
        if getattr(pipe, component, None) is None:
            raise BackboneError(f"{name} has no {component}; the whole pipeline is needed")
    config, vae = getattr(pipe, denoiser).config, pipe.vae.config
    taken = int(config.in_channels)
    made = int(vae.get("latent_channels") or vae["z_dim"]) * layout.patch**2
    if taken != made:
        raise BackboneError(
            f"{name} takes {taken} latent channels where its vae makes {made} (inpainting, depth or the like, or"
            " another model's vae); allowed are text-to-image models"
        )
    rows = [getattr(pipe, each) for each in layout.rows]
    if None not in rows:
        wanted = next(config[each] for each in _TEXT_WIDTHS if each in config)
        _check_width(name, "rows", wanted, sum(map(_row_width, rows)))
    _check_width(
        name,
        "pooled vectors",
        _pooled(config),
        sum(_pooled_width(getattr(pipe, each)) for each in layout.pooled),
    )


def _check_width(name: str, what: str, wanted: object, found: int) -> None:
    if wanted != found:
        raise BackboneError(
            f"{name}: the denoiser reads {what} of {wanted} numbers, the text encoders make {found};"
            " they are of different models"
        )


def _row_width(encoder: Any) -> int:
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
