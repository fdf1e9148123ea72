"""Write a diffusers pipeline in the layout of the original Stable Diffusion checkpoints.

The inverse of what diffusers does on loading a single file, written from the published key names.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_TOP = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
}


def export(pipe: Any, version: int) -> dict[str, Tensor]:
    """Return the SD 1 or 2 checkpoint of a pipeline whose denoiser has levels of two layers."""
    text, encoder = pipe.text_encoder.state_dict(), pipe.text_encoder
    clip, open_clip = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
    if version == 1:
        written = _clip(text, clip)
    else:
        written = _with_a_last_layer(_open_clip(text, encoder.config, open_clip), encoder.config, open_clip)
    return _contiguous(_unet_and_vae(pipe) | written | _ballast(version))


def export_xl(pipe: Any) -> dict[str, Tensor]:
    """Return the SDXL checkpoint of a pipeline whose denoiser has levels of two layers."""
    clip, open_clip = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
    second = {k.removeprefix("text_model."): v for k, v in pipe.text_encoder_2.state_dict().items()}
    projection = second.pop("text_projection.weight").T
    ballast = {
        clip + "embeddings.position_ids": torch.arange(77)[None],
        open_clip + "logit_scale": torch.tensor(4.6),
        "denoiser.sigmas": torch.zeros(1000),
    }
    written = _clip(pipe.text_encoder.state_dict(), clip)
    written |= _open_clip(second, pipe.text_encoder_2.config, open_clip)
    return _contiguous(
        {**_unet_and_vae(pipe), **written, open_clip + "text_projection": projection, **ballast}
    )


def _contiguous(checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in checkpoint.items()}


def _unet_and_vae(pipe: Any) -> dict[str, Tensor]:
    levels, unet = len(pipe.vae.config.block_out_channels), pipe.unet.state_dict()
    attended = {key.split(".")[1] for key in unet if re.match(r"up_blocks\.\d\.attentions", key)}
    checkpoint = {"model.diffusion_model." + _unet_key(k, attended): v for k, v in unet.items()}
    for key, value in pipe.vae.state_dict().items():
        name = _vae_key(key, levels)
        is_attention = "mid.attn_1" in name and name.endswith(".weight") and value.ndim == 2
        checkpoint["first_stage_model." + name] = value[:, :, None, None] if is_attention else value
    return checkpoint


def _ballast(version: int) -> dict[str, Tensor]:
    """What real checkpoints carry besides, and no loader needs."""
    clip = "cond_stage_model.transformer.text_model." if version == 1 else "cond_stage_model.model."
    own = (
        {"embeddings.position_ids": torch.arange(77)[None]}
        if version == 1
        else {"logit_scale": torch.tensor(4.6), "attn_mask": torch.zeros(77, 77)}
    )
    schedule = {"betas": torch.zeros(1000), "alphas_cumprod": torch.zeros(1000)}
    return {**schedule, "model_ema.decay": torch.tensor(0.9), **{clip + k: v for k, v in own.items()}}


def _unet_key(key: str, attended: set[str]) -> str:
    for ours, theirs in _UNET_TOP.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    block, rest = _unet_block(key, attended)
    for ours, theirs in _RESNET.items():
        if rest.startswith(ours + "."):
            rest = theirs + rest.removeprefix(ours)
    return f"{block}.{rest}"


def _unet_block(key: str, attended: set[str]) -> tuple[str, str]:
    if match := re.fullmatch(r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.+)", key):
        i, kind, j = int(match[1]), match[2], int(match[3])
        return f"input_blocks.{3 * i + j + 1}.{int(kind == 'attentions')}", match[4]
    if match := re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(.+)", key):
        return f"input_blocks.{3 * int(match[1]) + 3}.0.op", match[2]
    if match := re.fullmatch(r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.+)", key):
        i, kind, j = int(match[1]), match[2], int(match[3])
        return f"output_blocks.{3 * i + j}.{int(kind == 'attentions')}", match[4]
    if match := re.fullmatch(r"up_blocks\.(\d)\.upsamplers\.0\.conv\.(.+)", key):
        return f"output_blocks.{3 * int(match[1]) + 2}.{1 + (match[1] in attended)}.conv", match[2]
    match = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key)
    assert match, key
    return f"middle_block.{1 if match[1] == 'attentions' else 2 * int(match[2])}", match[3]


def _vae_key(key: str, levels: int) -> str:
    key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        key = key.replace("mid_block.attentions.0.", "mid.attn_1.")
        for ours, theirs in _VAE_ATTENTION.items():
            key = key.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    for ours, theirs in _VAE_TOP.items():
        key = key.replace(ours, theirs)
    return key


def _clip(text: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in text.items()}


def _open_clip(text: dict[str, Tensor], config: Any, prefix: str) -> dict[str, Tensor]:
    """OpenCLIP keeps query, key and value in one matrix."""
    checkpoint = {}
    for key, value in text.items():
        if re.search(r"self_attn\.[qkv]_proj", key):
            continue
        for ours, theirs in _OPEN_CLIP.items():
            key = key.replace(ours, theirs)  # noqa: PLW2901
        checkpoint[prefix + key] = value
    for i in range(config.num_hidden_layers):
        for kind in ("weight", "bias"):
            parts = [text[f"encoder.layers.{i}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            checkpoint[f"{prefix}transformer.resblocks.{i}.attn.in_proj_{kind}"] = torch.cat(parts)
    return checkpoint


def _with_a_last_layer(checkpoint: dict[str, Tensor], config: Any, prefix: str) -> dict[str, Tensor]:
    """SD 2's files have one layer more than it reads, and a projection."""
    layers = config.num_hidden_layers
    last = f"{prefix}transformer.resblocks.{layers - 1}."
    unread = {
        k.replace(f".{layers - 1}.", f".{layers}."): v.clone()
        for k, v in checkpoint.items()
        if k.startswith(last)
    }
    return {**checkpoint, **unread, prefix + "text_projection": torch.eye(config.hidden_size)}


def millions(folder: Path) -> float:
    """Return the number of weights, in millions, of the model that a configuration describes."""
    config = json.loads((folder / "config.json").read_text())
    with torch.device("meta"):
        if "architectures" in config:
            kind = getattr(transformers, config["architectures"][0])
            built = kind(transformers.CLIPTextConfig(**config))
        else:
            built = getattr(diffusers, config["_class_name"]).from_config(config)
    count: int = sum(weight.numel() for weight in built.parameters())
    return round(count / 1e6, 2)
