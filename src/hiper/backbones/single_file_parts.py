"""What single-file checkpoints of Stable Diffusion have in common, read off a header, in the form diffusers takes.

CLIP text encoders in the layouts of transformers and OpenCLIP, the picture encoder, and the noise schedule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiper.backbones.prediction import Prediction
from hiper.errors import BackboneError

UNET = "model.diffusion_model."
VAE = "first_stage_model."
ALLOWED = "allowed are whole checkpoints of Stable Diffusion 1.x, 2.x and XL"

Header = Mapping[str, Any]


@contextmanager
def reading(path: Path, family: str) -> Iterator[None]:
    """Turn what a header lacks or misstates into a BackboneError of one line."""
    try:
        yield
    except KeyError as error:
        raise BackboneError(
            f"{path} is not a whole {family} checkpoint: {error.args[0]} is missing"
        ) from error
    except (IndexError, ValueError) as error:
        raise BackboneError(
            f"{path} is not a {family} checkpoint: a weight has an impossible shape ({error})"
        ) from error


def shape(header: Header, name: str) -> list[int]:
    """Return a tensor's shape; KeyError when it is missing."""
    sides: list[int] = header[name]["shape"]
    return sides


def count(header: Header, prefix: str) -> int:
    """Return how many names there are right behind a prefix, up to the next dot."""
    return len({name[len(prefix) :].split(".")[0] for name in header if name.startswith(prefix)})


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A CLIP text encoder; `is_open`: one of OpenCLIP's, with another activation and padding."""

    is_open: bool
    embed_dim: int
    vocabulary: int
    positions: int
    layers: int
    hidden: int
    projection: int

    def config(self, architecture: str) -> dict[str, Any]:
        """Return transformers' configuration; the ids of the marks are the vocabulary's last two."""
        return {
            "architectures": [architecture],
            "model_type": "clip_text_model",
            "hidden_size": self.embed_dim,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": max(1, self.embed_dim // 64),
            "max_position_embeddings": self.positions,
            "vocab_size": self.vocabulary,
            "hidden_act": "gelu" if self.is_open else "quick_gelu",
            "projection_dim": self.projection,
            "bos_token_id": self.vocabulary - 2,
            "eos_token_id": self.vocabulary - 1,
            "pad_token_id": 0 if self.is_open else self.vocabulary - 1,
        }

    def tokenizer(self) -> dict[str, Any]:
        """Return the tokenizer's configuration; OpenCLIP pads with id 0, which is "!"."""
        end = "<|endoftext|>"
        return {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.positions,
            "bos_token": "<|startoftext|>",
            "eos_token": end,
            "unk_token": end,
            "pad_token": "!" if self.is_open else end,
        }


def read_clip(header: Header, prefix: str) -> Clip:
    """Read a text encoder in transformers' layout."""
    vocabulary, embed_dim = shape(header, prefix + "embeddings.token_embedding.weight")
    return Clip(
        is_open=False,
        embed_dim=embed_dim,
        vocabulary=vocabulary,
        positions=shape(header, prefix + "embeddings.position_embedding.weight")[0],
        layers=count(header, prefix + "encoder.layers."),
        hidden=shape(header, prefix + "encoder.layers.0.mlp.fc1.weight")[0],
        projection=embed_dim,
    )


def read_open_clip(header: Header, prefix: str) -> Clip:
    """Read a text encoder in OpenCLIP's layout; files of SD 2, which needs no projection, may leave it out."""
    vocabulary, embed_dim = shape(header, prefix + "token_embedding.weight")
    projection = prefix + "text_projection"
    return Clip(
        is_open=True,
        embed_dim=embed_dim,
        vocabulary=vocabulary,
        positions=shape(header, prefix + "positional_embedding")[0],
        layers=count(header, prefix + "transformer.resblocks."),
        hidden=shape(header, prefix + "transformer.resblocks.0.mlp.c_fc.weight")[0],
        projection=shape(header, projection)[1] if projection in header else embed_dim,
    )


@dataclass(frozen=True, kw_only=True)
class Vae:
    """The picture encoder; sizes are channels."""

    channels: tuple[int, ...]
    latent_channels: int

    def config(self, *, cells: int, scaling: float) -> dict[str, Any]:
        """Return diffusers' configuration for pictures of `cells` latent cells a side."""
        levels = len(self.channels)
        return {
            "_class_name": "AutoencoderKL",
            "sample_size": cells * 2 ** (levels - 1),
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": self.latent_channels,
            "layers_per_block": 2,
            "block_out_channels": self.channels,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "scaling_factor": scaling,
        }


def read_vae(header: Header) -> Vae:
    """Read the picture encoder."""
    return Vae(
        channels=tuple(
            shape(header, f"{VAE}encoder.down.{n}.block.0.conv2.weight")[0]
            for n in range(count(header, f"{VAE}encoder.down."))
        ),
        latent_channels=shape(header, f"{VAE}post_quant_conv.weight")[0],
    )


def scheduler_config(prediction: Prediction, *, zero_terminal: bool) -> dict[str, Any]:
    """Return the schedule that all Stable Diffusion models up to XL were trained with.

    Args:
        prediction: What the denoiser predicts.
        zero_terminal: The last timestep is noise alone, and sampling starts there (arXiv:2305.08891, section 3).
    """
    ending = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if zero_terminal else {}
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction,
        **ending,
    }


def write_files(files: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write JSON files by their paths inside `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
