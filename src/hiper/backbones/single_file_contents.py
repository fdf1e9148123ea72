"""Say what a single file holds that is no whole checkpoint of Stable Diffusion 1.x, 2.x or XL, and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hiper.backbones.single_file_parts import ALLOWED, UNET, VAE, Header, shape
from hiper.errors import BackboneError

_FAMILIES: Mapping[str, str] = {
    "joint_blocks.": "Stable Diffusion 3",
    "double_stream_modulation_img.": "FLUX.2",
    "double_blocks.": "FLUX.1",
    "cap_embedder.": "Z-Image or Lumina 2",
    "transformer_blocks.0.img_mlp.": "Qwen-Image",
}
"""The first tensors by which other families are known, bare or behind `UNET`; FLUX.2 has FLUX.1's as well."""

_VARIANTS: Mapping[str, str] = {
    "conditioner.embedders.0.model.": "the refiner of Stable Diffusion XL",
    "embedder.model.visual.": "an unCLIP variant of Stable Diffusion 2",
    "edm_": "an EDM variant of Stable Diffusion",
    UNET + "time_embed.cond_proj": "a latent consistency model, which a single file does not bring whole",
}
"""Tensors by which variants are known that are trained or conditioned in another way."""

_ADDITIONS: Mapping[str, str] = {
    "hiper.": "what hiper fit wrote, not a model",
    "lora": "a LoRA",
    "hada_w1": "a LoRA (LoHa)",
    "lokr_w1": "a LoRA (LoKr)",
    "control_model.": "a ControlNet",
    "input_hint_block.": "a ControlNet",
    "controlnet_cond_embedding.": "a ControlNet",
    "ip_adapter.": "an IP-Adapter",
    "motion_modules.": "a motion module",
    "emb_params": "a textual inversion",
    "clip_l": "a textual inversion",
    "string_to_param": "a textual inversion",
}
"""Parts of a tensor's name by which additions to a model are known."""

_PACKED = (
    ".scale_weight",
    ".weight_scale",
    "scaled_fp8",
    ".absmax",
    ".quant_state.",
    ".comfy_quant",
    ".qweight",
)
"""Parts of names that scaled or packed weights have beside them; plain float8 has none, and is read."""

_ALONE: Mapping[str, str] = {
    "model_ema.": "averaged weights (model_ema.*) alone",
    "input_blocks.": "a denoiser alone",
    "down_blocks.": "a denoiser alone, in the layout of diffusers",
    VAE: "an autoencoder (VAE) alone",
    "encoder.down": "an autoencoder (VAE) alone",
    "decoder.up": "an autoencoder (VAE) alone",
    "cond_stage_model.": "a text encoder alone",
    "conditioner.": "a text encoder alone",
    "text_model.": "a text encoder alone",
}
"""First parts of names in a file without a denoiser where it should be."""

_REMEDIES: Mapping[str, str] = {
    "averaged weights (model_ema.*) alone": "their names have lost their dots; take the release without EMA, or the"
    " one pruned to it, whose names begin with model.diffusion_model",
}
_WHOLE = (
    "take the checkpoint that holds denoiser, text encoder and autoencoder (ComfyUI's Save Checkpoint writes one),"
    " or the model's diffusers folder"
)


def check_contents(path: Path, header: Header) -> None:
    """Refuse what is no whole checkpoint.

    Raises:
        BackboneError: The file is of another family, a variant or an addition, holds packed weights, or lacks a part.
    """
    for name, family in _FAMILIES.items():
        if any(key.startswith((name, UNET + name)) for key in header):
            raise BackboneError(
                f"{path} is a {family} checkpoint; {ALLOWED}; give the model's folder in diffusers format,"
                " or its Hub id"
            )
    for name, variant in _VARIANTS.items():
        if any(key.startswith(name) for key in header):
            raise BackboneError(f"{path} is {variant}; {ALLOWED}")
    for name, addition in _ADDITIONS.items():
        if any(name in key for key in header):
            raise BackboneError(f"{path} is {addition}; {ALLOWED}")
    if any(part in key for key in header for part in _PACKED):
        raise BackboneError(
            f"{path} holds scaled or packed weights (fp8 with scales, nf4 or the like); take the file in fp16, bf16 or"
            " plain fp8, and quantise by the diffusers folder and --quantise"
        )
    if UNET + "input_blocks.0.0.weight" not in header:
        raise _without_denoiser(path, header)
    _check_channels(path, header)
    _check_parts(path, header)


def _without_denoiser(path: Path, header: Header) -> BackboneError:
    for name, what in _ALONE.items():
        if any(key.startswith(name) for key in header):
            return BackboneError(f"{path} holds {what}; {_REMEDIES.get(what, _WHOLE)}")
    return BackboneError(f"{path} holds no {UNET}* weights; {ALLOWED}")


def _check_channels(path: Path, header: Header) -> None:
    channels = shape(header, UNET + "input_blocks.0.0.weight")[1]
    if channels != 4:
        raise BackboneError(
            f"{path} takes {channels} latent channels (inpainting, depth or the like); {ALLOWED} with 4"
        )


def _check_parts(path: Path, header: Header) -> None:
    missing = [
        what
        for what, prefixes in {
            "text encoder": ("cond_stage_model.", "conditioner."),
            "autoencoder (VAE)": (VAE,),
        }.items()
        if not any(key.startswith(prefixes) for key in header)
    ]
    if missing:
        raise BackboneError(f"{path} holds no {' and no '.join(missing)}; {_WHOLE}")
