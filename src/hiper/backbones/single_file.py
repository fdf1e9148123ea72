"""Describe a single-file checkpoint of Stable Diffusion 1.x or 2.x by a diffusers configuration of our own.

diffusers fetches a configuration from the network when it is handed a bare file. So everything is read
off the shapes in the file's header and written into a folder, and nothing is fetched. What shapes do not
tell: the number of heads (8 in v1, heads of 64 channels in v2) and, for v2, what the model predicts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hiper.backbones.single_file_parts import (
    ALLOWED,
    UNET,
    Clip,
    Header,
    Prediction,
    Vae,
    check_channels,
    read_clip,
    read_open_clip,
    read_vae,
    reading,
    scheduler_config,
    shape,
    told_prediction,
    write_files,
)
from hiper.errors import BackboneError

CLIP_V1 = "cond_stage_model.transformer.text_model."
CLIP_V2 = "cond_stage_model.model."

_OTHERS = {
    "joint_blocks.": "Stable Diffusion 3",
    "double_stream_modulation_img.": "FLUX.2",
    "double_blocks.": "FLUX.1",
    "cap_embedder.": "Z-Image or Lumina 2",
    "transformer_blocks.0.img_mlp.": "Qwen-Image",
}
"""The first tensors by which other families are known, bare or behind `UNET`; FLUX.2 has FLUX.1's as well."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What distinguishes one checkpoint from another; `version` is 1 or 2, sizes are channels."""

    version: Literal[1, 2]
    prediction: Prediction
    unet_channels: tuple[int, ...]
    linear_projection: bool
    vae: Vae
    text: Clip

    @property
    def sample_size(self) -> int:
        """Native side of a picture in latent cells: 96 for the 768-pixel models of v2, else 64."""
        return 96 if self.version == 2 and self.prediction == "v_prediction" else 64


def describe(path: Path, header: Header) -> Layout:
    """Read the layout off a checkpoint's header; BackboneError when it is not a whole SD 1.x or 2.x model."""
    with reading(path, "Stable Diffusion 1.x or 2.x"):
        return _described(path, header)


def _described(path: Path, header: Header) -> Layout:
    _refuse_others(path, header)
    version: Literal[1, 2] = 2 if CLIP_V2 + "token_embedding.weight" in header else 1
    return Layout(
        version=version,
        text=_text(header, version),
        prediction=_prediction(path, header, version),
        unet_channels=tuple(
            shape(header, f"{UNET}input_blocks.{n}.0.out_layers.3.weight")[0] for n in (1, 4, 7, 10)
        ),
        linear_projection=len(shape(header, f"{UNET}input_blocks.1.1.proj_in.weight")) == 2,
        vae=read_vae(header),
    )


def _text(header: Header, version: int) -> Clip:
    if version == 1:
        return read_clip(header, CLIP_V1)
    whole = read_open_clip(header, CLIP_V2)
    # SD 2 reads the last but one layer of its encoder: the last is left out
    return replace(whole, layers=whole.layers - 1)


def _refuse_others(path: Path, header: Header) -> None:
    for mark, family in _OTHERS.items():
        if any(name.startswith((mark, UNET + mark)) for name in header):
            raise BackboneError(
                f"{path} is a {family} checkpoint; {ALLOWED}; give the model's folder in diffusers format,"
                " or its Hub id"
            )
    if any("lora" in name for name in header):
        raise BackboneError(f"{path} is a LoRA; {ALLOWED}")
    check_channels(path, header)


def _prediction(path: Path, header: Header, version: int) -> Prediction:
    """SD 1 predicts the noise; SD 2 comes in both kinds, told by a ModelSpec entry or the usual .yaml."""
    told = told_prediction(header)
    if told is not None:
        return told
    yaml = path.with_suffix(".yaml")
    if yaml.is_file():
        is_v = re.search(r"parameterization:\s*[\"']?v\b", yaml.read_text(encoding="utf-8"))
        return "v_prediction" if is_v else "epsilon"
    if version == 2:
        raise BackboneError(
            f"{path} is of SD 2.x, whose files do not say what they predict; put {yaml.name} beside it with"
            ' the line parameterization: "v" (models of 768 pixels) or parameterization: "eps" (of 512)'
        )
    return "epsilon"


def write_config(layout: Layout, folder: Path) -> None:
    """Write the diffusers configuration of a layout into `folder`, all but the tokenizer's vocabulary."""
    files = {
        "model_index.json": _index(),
        "unet/config.json": _unet(layout),
        "vae/config.json": layout.vae.config(cells=layout.sample_size, scaling=0.18215),
        "text_encoder/config.json": layout.text.config("CLIPTextModel"),
        "scheduler/scheduler_config.json": scheduler_config(layout.prediction),
        "tokenizer/tokenizer_config.json": layout.text.tokenizer(),
    }
    write_files(files, folder)


def _index() -> dict[str, Any]:
    return {
        "_class_name": "StableDiffusionPipeline",
        "requires_safety_checker": False,
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _unet(layout: Layout) -> dict[str, Any]:
    heads = 8 if layout.version == 1 else [max(1, channels // 64) for channels in layout.unet_channels]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": layout.sample_size,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": layout.unet_channels,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "cross_attention_dim": layout.text.embed,
        "attention_head_dim": heads,  # by its history the number of heads
        "use_linear_projection": layout.linear_projection,
        # SD 2.1 overflows in float16 without it, and the others lose nothing by it
        "upcast_attention": layout.version == 2,
    }
