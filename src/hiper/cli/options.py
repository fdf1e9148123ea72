"""The options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hiper.cli.arguments import LARGEST_SEED
from hiper.cli.command import Only
from hiper.cli.session import Session
from hiper.engines import EngineSettings

Talking = Annotated[Session, Only("json", "quiet")]
"""The session of a command whose results do not depend on how a GPU computes."""

Others = Annotated[list[str] | None, Argument(hidden=True)]
Overwrite = Annotated[bool, Option(help="Replace files that exist.")]
BackboneName = Annotated[
    str, Option(help="critters (the embedded model), a diffusers folder, a .safetensors file or a Hub id.")
]
MethodName = Annotated[str, Option(help="The method of the fit; `hiper methods` lists them.")]
Preset = Annotated[
    str, Option(help="default, paper, or one that `hiper tune` wrote; auto: the best for the model.")
]
MethodOption = Annotated[
    list[str] | None,
    Option("-o", "--option", metavar="NAME=VALUE", help="Option of the method, such as tail=3; repeatable."),
]
FitSeed = Annotated[
    int | None,
    Option(min=-1, max=LARGEST_SEED, help="Seed of the fit; -1: random; default: the preset's, 0."),
]
Images = Annotated[int, Option(min=1, max=10_000, help="Pictures per prompt.")]
BatchSize = Annotated[int, Option(min=1, max=1000, help="Pictures per call of the model.")]
LearntFile = Annotated[Path, Argument(metavar="FILE", help="A file written by `hiper fit`.")]
OwnBackbone = Annotated[
    str | None, Option("--backbone", help="Model to use; default: the one that the file was fitted on.")
]
OutFile = Annotated[Path, Option("--out", help="File to write, ending in .safetensors.")]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """How a model is loaded; None leaves the choice to hiper. See `load_backbone`."""

    device: Annotated[
        str | None, Option(help="cpu, cuda, cuda:N or mps; default: the fastest available.")
    ] = None
    dtype: Annotated[str | None, Option(help="float32, bfloat16 or float16; default: by device.")] = None
    prediction_type: Annotated[
        str | None,
        Option(
            "--prediction",
            help="Prediction type, epsilon or v_prediction; default: read from the checkpoint.",
        ),
    ] = None
    quantise: Annotated[
        str | None, Option(help="Load the denoiser in 4 (nf4) or 8 bits (int8); default: off.")
    ] = None
    memory: Annotated[str, Option(help="low (slower), balanced (all components stay loaded) or auto.")] = (
        "auto"
    )
    resolution: Annotated[
        int | None, Option(min=8, max=8192, help="Side of the square in pixels; default: the model's.")
    ] = None


Device = Annotated[Hardware, Only("device", "dtype", "prediction_type")]
"""The part of the hardware's options that every command takes which loads a model."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a picture is drawn; None takes the artifact's own setting."""

    strength: Annotated[
        float | None, Option(help="Strength of the subject, from 0 (none); default: the file's, 0.8.")
    ] = None
    guidance_scale: Annotated[
        float | None, Option("--guidance-scale", "--guidance", help="Guidance scale; default: by model.")
    ] = None
    num_inference_steps: Annotated[
        int | None,
        Option(
            "--num-inference-steps", "--steps", min=1, max=1000, help="Denoising steps; default: by model."
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        Option(help="ddim, dpm++, unipc (also with -karras), euler, pndm or lcm; default: by model."),
    ] = None
    height: Annotated[int | None, Option(min=8, max=8192, help="Height in pixels; default: the model's.")] = (
        None
    )
    width: Annotated[int | None, Option(min=8, max=8192, help="Width in pixels; default: the model's.")] = (
        None
    )
    negative_prompt: Annotated[str, Option(metavar="TEXT", help="What the picture should not show.")] = ""
    keep: Annotated[
        float | None,
        Option(help="How much of the source stays, 0 (new picture) to 1; default: the file's, 0.5."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where the work of many subjects is done."""

    engine: Annotated[str, Option(help="local (processes on this machine) or ray.")] = "local"
    address: Annotated[
        str | None,
        Option(metavar="ADDRESS", help="Address of a Ray cluster; default: start one on this machine."),
    ] = None
    cores_per_worker: Annotated[
        int, Option(min=1, max=1024, help="CPU cores of a Ray worker without a GPU.")
    ] = 1

    def settings(self, workers: int, device: str | None, memory_limit: float | None = None) -> EngineSettings:
        """Return what the engine takes."""
        return EngineSettings(
            name=self.engine,
            workers=workers,
            address=self.address,
            cores_per_worker=self.cores_per_worker,
            gpus=device is None or device.startswith("cuda"),
            memory_limit=memory_limit,
        )
