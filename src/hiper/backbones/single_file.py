"""Describe a single-file checkpoint of Stable Diffusion 1.x or 2.x by a diffusers configuration of our own.

diffusers fetches a configuration from the network when it is handed a bare file. So everything is read
off the shapes in the file's header and written into a folder, and nothing is fetched. What shapes do not
tell: the number of heads (8 in v1, heads of 64 channels in v2) and, for v2, what the model predicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hiper.errors import BackboneError

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP_V1 = "cond_stage_model.transformer.text_model."
CLIP_V2 = "cond_stage_model.model."

_OTHERS = {
    "conditioner.": "Stable Diffusion XL",
    "joint_blocks.": "Stable Diffusion 3",
    "double_stream_modulation_img.": "FLUX.2",
    "double_blocks.": "FLUX.1",
    "cap_embedder.": "Z-Image or Lumina 2",
    "transformer_blocks.0.img_mlp.": "Qwen-Image",
}
"""The first tensors by which other families are known, bare or behind `UNET`; FLUX.2 has FLUX.1's as well."""

Header = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What distinguishes one checkpoint from another; `version` is 1 or 2, sizes are channels."""

    version: Literal[1, 2]
    prediction: Literal["epsilon", "v_prediction"]
    unet_channels: tuple[int, ...]
    linear_projection: bool
    vae_channels: tuple[int, ...]
    latent_channels: int
    embed: int
    vocabulary: int
    positions: int
    text_layers: int
    text_hidden: int

    @property
    def sample_size(self) -> int:
        """Native side of a picture in latent cells: 96 for the 768-pixel models of v2, else 64."""
        return 96 if self.version == 2 and self.prediction == "v_prediction" else 64


def describe(path: Path, header: Header) -> Layout:
    """Read the layout off a checkpoint's header; BackboneError when it is not a whole SD 1.x or 2.x model."""
    try:
        return _described(path, header)
    except KeyError as error:
        raise BackboneError(
            f"{path} is not a whole Stable Diffusion 1.x or 2.x checkpoint: {error.args[0]} is missing"
        ) from error
    except (IndexError, ValueError) as error:
        raise BackboneError(
            f"{path} is not a Stable Diffusion 1.x or 2.x checkpoint: a weight has an impossible shape ({error})"
        ) from error


def _described(path: Path, header: Header) -> Layout:
    _refuse_others(path, header)
    version: Literal[1, 2] = 2 if CLIP_V2 + "token_embedding.weight" in header else 1
    clip, block = (CLIP_V2, "transformer.resblocks.") if version == 2 else (CLIP_V1, "encoder.layers.")
    tokens = "token_embedding.weight" if version == 2 else "embeddings.token_embedding.weight"
    places = "positional_embedding" if version == 2 else "embeddings.position_embedding.weight"
    hidden = "0.mlp.c_fc.weight" if version == 2 else "0.mlp.fc1.weight"
    vocabulary, embed = _shape(header, clip + tokens)
    return Layout(
        version=version,
        prediction=_prediction(path, header, version),
        unet_channels=tuple(
            _shape(header, f"{UNET}input_blocks.{n}.0.out_layers.3.weight")[0] for n in (1, 4, 7, 10)
        ),
        linear_projection=len(_shape(header, f"{UNET}input_blocks.1.1.proj_in.weight")) == 2,
        vae_channels=tuple(
            _shape(header, f"{VAE}encoder.down.{n}.block.0.conv2.weight")[0]
            for n in range(_count(header, f"{VAE}encoder.down."))
        ),
        latent_channels=_shape(header, f"{VAE}post_quant_conv.weight")[0],
        embed=embed,
        vocabulary=vocabulary,
        positions=_shape(header, clip + places)[0],
        # SD 2 reads the last but one layer of its encoder: the last is left out
        text_layers=_count(header, clip + block) - (version == 2),
        text_hidden=_shape(header, clip + block + hidden)[0],
    )


def _refuse_others(path: Path, header: Header) -> None:
    allowed = "allowed are whole checkpoints of Stable Diffusion 1.x and 2.x"
    for mark, family in _OTHERS.items():
        if any(name.startswith((mark, UNET + mark)) for name in header):
            raise BackboneError(
                f"{path} is a {family} checkpoint; {allowed}; give the model's folder in diffusers format,"
                " or its Hub id"
            )
    if any("lora" in name for name in header):
        raise BackboneError(f"{path} is a LoRA; {allowed}")
    if UNET + "input_blocks.0.0.weight" not in header:
        raise BackboneError(f"{path} holds no {UNET}* weights; {allowed}")
    channels = _shape(header, UNET + "input_blocks.0.0.weight")[1]
    if channels != 4:
        raise BackboneError(
            f"{path} takes {channels} latent channels (inpainting, depth or the like); {allowed} with 4"
        )


def _prediction(path: Path, header: Header, version: int) -> Literal["epsilon", "v_prediction"]:
    """SD 1 predicts the noise; SD 2 comes in both kinds, told by a ModelSpec entry or the usual .yaml."""
    metadata = header.get("__metadata__", {})
    told = metadata.get("modelspec.prediction_type", "")
    if told:
        return "v_prediction" if told.startswith("v") else "epsilon"
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


def _shape(header: Header, name: str) -> list[int]:
    shape: list[int] = header[name]["shape"]
    return shape


def _count(header: Header, prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in header if name.startswith(prefix)})


def write_config(layout: Layout, folder: Path) -> None:
    """Write the diffusers configuration of a layout into `folder`, all but the tokenizer's vocabulary."""
    files = {
        "model_index.json": _index(),
        "unet/config.json": _unet(layout),
        "vae/config.json": _vae(layout),
        "text_encoder/config.json": _text_encoder(layout),
        "scheduler/scheduler_config.json": _scheduler(layout),
        "tokenizer/tokenizer_config.json": _tokenizer(layout),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


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
        "cross_attention_dim": layout.embed,
        "attention_head_dim": heads,  # by its history the number of heads
        "use_linear_projection": layout.linear_projection,
        # SD 2.1 overflows in float16 without it, and the others lose nothing by it
        "upcast_attention": layout.version == 2,
    }


def _vae(layout: Layout) -> dict[str, Any]:
    levels = len(layout.vae_channels)
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": layout.sample_size * 2 ** (levels - 1),
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": layout.latent_channels,
        "layers_per_block": 2,
        "block_out_channels": layout.vae_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": 0.18215,
    }


def _text_encoder(layout: Layout) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": layout.embed,
        "intermediate_size": layout.text_hidden,
        "num_hidden_layers": layout.text_layers,
        "num_attention_heads": max(1, layout.embed // 64),
        "max_position_embeddings": layout.positions,
        "vocab_size": layout.vocabulary,
        "hidden_act": "quick_gelu" if layout.version == 1 else "gelu",
        "projection_dim": layout.embed,
        "bos_token_id": layout.vocabulary - 2,
        "eos_token_id": layout.vocabulary - 1,
        "pad_token_id": layout.vocabulary - 1 if layout.version == 1 else 0,
    }


def _scheduler(layout: Layout) -> dict[str, Any]:
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": layout.prediction,
    }


def _tokenizer(layout: Layout) -> dict[str, Any]:
    end = "<|endoftext|>"
    return {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": layout.positions,
        "bos_token": "<|startoftext|>",
        "eos_token": end,
        "unk_token": end,
        "pad_token": end if layout.version == 1 else "!",
    }
