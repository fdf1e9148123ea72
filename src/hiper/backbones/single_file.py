"""Describe a single-file checkpoint of Stable Diffusion 1.x or 2.x by a diffusers configuration of our own.

diffusers fetches a configuration from the network when it is handed a bare file. So everything is read
off the shapes in the file's header and written into a folder, and nothing is fetched. What shapes do not
tell: the number of heads (8 in v1, heads of 64 channels in v2) and, for v2, what the model predicts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hiper.backbones.prediction import OPTION, Prediction, agree, assume_epsilon, file_statements, yaml_files
from hiper.backbones.single_file_parts import (
    UNET,
    Clip,
    Header,
    Vae,
    read_clip,
    read_open_clip,
    read_vae,
    reading,
    scheduler_config,
    shape,
    write_files,
)
from hiper.errors import BackboneError

CLIP_V1 = "cond_stage_model.transformer.text_model."
OLD_CLIP_V1 = "cond_stage_model.transformer."
"""Of files from before transformers 4.1 gave the model its prefix."""
CLIP_V2 = "cond_stage_model.model."


@dataclass(frozen=True, kw_only=True)
class SdLayout:
    """What distinguishes one checkpoint from another; `version` is 1 or 2, sizes are channels."""

    version: Literal[1, 2]
    prediction: Prediction
    zero_terminal: bool = False
    unet_channels: tuple[int, ...]
    linear_projection: bool
    vae: Vae
    text: Clip

    @property
    def sample_size(self) -> int:
        """Native side of a picture in latent cells: 96 for the 768-pixel models of v2, else 64."""
        return 96 if self.version == 2 and self.prediction == "v_prediction" else 64


def describe(path: Path, header: Header, stated: str | None = None) -> SdLayout:
    """Read the layout off a whole checkpoint's header.

    Args:
        path: The checkpoint; what lies beside it may say what it predicts.
        header: Its table of tensors.
        stated: What the user says that it predicts.

    Raises:
        BackboneError: It is not a whole SD 1.x or 2.x model, or nobody says what it predicts, or two disagree.
    """
    with reading(path, "Stable Diffusion 1.x or 2.x"):
        return _described(path, header, stated)


def is_old(header: Header) -> bool:
    """Say whether the text encoder of an SD 1 file has no `text_model.` in its names."""
    return OLD_CLIP_V1 + "embeddings.token_embedding.weight" in header


def _described(path: Path, header: Header, stated: str | None) -> SdLayout:
    version: Literal[1, 2] = 2 if CLIP_V2 + "token_embedding.weight" in header else 1
    text = _text(header, version)
    target = agree(str(path), file_statements(path, header, stated))
    return SdLayout(
        version=version,
        text=text,
        prediction=target.prediction or _unstated(path, version),
        zero_terminal=target.zero_terminal,
        unet_channels=tuple(
            shape(header, f"{UNET}input_blocks.{n}.0.out_layers.3.weight")[0] for n in (1, 4, 7, 10)
        ),
        linear_projection=len(shape(header, f"{UNET}input_blocks.1.1.proj_in.weight")) == 2,
        vae=read_vae(header),
    )


def _text(header: Header, version: int) -> Clip:
    if version == 1:
        return read_clip(header, OLD_CLIP_V1 if is_old(header) else CLIP_V1)
    whole = read_open_clip(header, CLIP_V2)
    # SD 2 reads the last but one layer of its encoder: the last is left out
    return replace(whole, layers=whole.layers - 1)


def _unstated(path: Path, version: int) -> Prediction:
    """SD 1 predicts the noise, and ldm's .yaml leaves that away; SD 2 comes in both kinds."""
    if version == 2 and not yaml_files(path):
        raise BackboneError(
            f"{path} is of SD 2.x, whose files do not say what they predict; state {OPTION} v_prediction (models of"
            f" 768 pixels) or epsilon (of 512), or put {path.stem}.yaml beside it with the line"
            ' parameterization: "v" or "eps"'
        )
    return assume_epsilon(str(path))


def write_config(layout: SdLayout, folder: Path) -> None:
    """Write the diffusers configuration of a layout into `folder`, all but the tokenizer's vocabulary."""
    files = {
        "model_index.json": _index(),
        "unet/config.json": _unet(layout),
        "vae/config.json": layout.vae.config(cells=layout.sample_size, scaling=0.18215),
        "text_encoder/config.json": layout.text.config("CLIPTextModel"),
        "scheduler/scheduler_config.json": scheduler_config(
            layout.prediction, zero_terminal=layout.zero_terminal
        ),
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


def _unet(layout: SdLayout) -> dict[str, Any]:
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
        "cross_attention_dim": layout.text.embed_dim,
        "attention_head_dim": heads,  # by its history the number of heads
        "use_linear_projection": layout.linear_projection,
        # SD 2.1 overflows in float16 without it, and the others lose nothing by it
        "upcast_attention": layout.version == 2,
    }
