"""Describe a single-file checkpoint of Stable Diffusion XL, as `single_file` does those of 1.x and 2.x.

What shapes do not tell: heads have 64 channels, and a model predicts the noise unless somebody says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiper.backbones.prediction import Prediction, agree, assume_epsilon, file_statements
from hiper.backbones.single_file_parts import (
    ALLOWED,
    UNET,
    Clip,
    Header,
    Vae,
    count,
    read_clip,
    read_open_clip,
    read_vae,
    reading,
    scheduler_config,
    shape,
    write_files,
)
from hiper.errors import BackboneError

CLIP = "conditioner.embedders.0.transformer.text_model."
OPEN_CLIP = "conditioner.embedders.1.model."
SIZES = 6
"""The numbers that a picture's size and crop are given by (arXiv:2307.01952, section 2.2)."""


@dataclass(frozen=True, kw_only=True)
class SdxlLayout:
    """What distinguishes one checkpoint from another.

    Attributes:
        depths: Transformer layers of each level of the denoiser, 0 for one without attention.
        zero_terminal: The last timestep is noise alone (arXiv:2305.08891, section 3.1).
        addition: Width of the added embedding's input: the pooled embedding, and `SIZES` numbers.
    """

    prediction: Prediction
    zero_terminal: bool
    unet_channels: tuple[int, ...]
    depths: tuple[int, ...]
    addition: int
    vae: Vae
    text: Clip
    text_2: Clip

    @property
    def sample_size(self) -> int:
        """Native side of a picture in latent cells."""
        return 128


def is_xl(header: Header) -> bool:
    """Say whether a header is of Stable Diffusion XL or of a variant of it."""
    return any(name.startswith("conditioner.") for name in header)


def describe(path: Path, header: Header, stated: str | None = None) -> SdxlLayout:
    """Read the layout off a whole checkpoint's header; arguments and errors as of `single_file.describe`."""
    with reading(path, "Stable Diffusion XL"):
        return _described(path, header, stated)


def _described(path: Path, header: Header, stated: str | None) -> SdxlLayout:
    blocks = range(1, count(header, UNET + "input_blocks."), 3)
    target = agree(str(path), file_statements(path, header, stated))
    return SdxlLayout(
        prediction=target.prediction or assume_epsilon(str(path)),
        zero_terminal=target.zero_terminal,
        unet_channels=tuple(
            shape(header, f"{UNET}input_blocks.{n}.0.out_layers.3.weight")[0] for n in blocks
        ),
        depths=_depths(path, header, blocks),
        addition=shape(header, f"{UNET}label_emb.0.0.weight")[1],
        vae=read_vae(header),
        text=read_clip(header, CLIP),
        text_2=read_open_clip(header, OPEN_CLIP),
    )


def _depths(path: Path, header: Header, blocks: range) -> tuple[int, ...]:
    """Read the transformers' depths: two on the way down, one in the middle, three on the way up."""

    def depth(block: str) -> int:
        return count(header, f"{UNET}{block}.1.transformer_blocks.")

    depths = tuple(depth(f"input_blocks.{n}") for n in blocks)
    promised = [
        *(d for d in depths for _ in range(2)),
        depths[-1],
        *(d for d in depths[::-1] for _ in range(3)),
    ]
    found = [depth(f"input_blocks.{n + layer}") for n in blocks for layer in range(2)]
    found += [depth("middle_block")]
    found += [depth(f"output_blocks.{n}") for n in range(3 * len(depths))]
    if found != promised:
        raise BackboneError(
            f"{path} lacks transformer layers of Stable Diffusion XL (a distilled variant or the like); {ALLOWED}"
        )
    return depths


def write_config(layout: SdxlLayout, folder: Path) -> None:
    """Write the diffusers configuration of a layout into `folder`, all but the tokenizers' vocabulary."""
    files = {
        "model_index.json": _index(),
        "unet/config.json": _unet(layout),
        "vae/config.json": layout.vae.config(cells=layout.sample_size, scaling=0.13025),
        "text_encoder/config.json": layout.text.config("CLIPTextModel"),
        "text_encoder_2/config.json": layout.text_2.config("CLIPTextModelWithProjection"),
        "scheduler/scheduler_config.json": {
            "timestep_spacing": "leading",
            **scheduler_config(layout.prediction, zero_terminal=layout.zero_terminal),
        },
        "tokenizer/tokenizer_config.json": layout.text.tokenizer(),
        "tokenizer_2/tokenizer_config.json": layout.text_2.tokenizer(),
    }
    write_files(files, folder)


def _index() -> dict[str, Any]:
    return {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _unet(layout: SdxlLayout) -> dict[str, Any]:
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": layout.sample_size,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": layout.unet_channels,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in layout.depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in layout.depths[::-1]],
        "transformer_layers_per_block": [max(1, depth) for depth in layout.depths],
        "cross_attention_dim": layout.text.embed_dim + layout.text_2.embed_dim,
        # by its history the number of heads
        "attention_head_dim": [max(1, channels // 64) for channels in layout.unet_channels],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (layout.addition - layout.text_2.projection) // SIZES,
        "projection_class_embeddings_input_dim": layout.addition,
    }
