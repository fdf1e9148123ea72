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
BackboneName = Annotated[str, Option(help="critters, a folder, a .safetensors file or a Hub id.")]
MethodName = Annotated[str, Option(help="How to learn; see `hiper methods`.")]
Preset = Annotated[
    str, Option(help="default, paper, ..., or what hiper tune wrote; auto: what suits the model.")
]
MethodOption = Annotated[
    list[str] | None,
    Option("-o", "--option", metavar="NAME=VALUE", help="An option of the method; may be repeated."),
]
FitSeed = Annotated[int | None, Option(min=-1, max=LARGEST_SEED, help="-1: a random one.")]
Images = Annotated[int, Option(min=1, max=10_000, help="Pictures per sentence.")]
BatchSize = Annotated[int, Option(min=1, max=1000, help="Pictures drawn at a time.")]
LearntFile = Annotated[Path, Argument(metavar="FILE", help="What `hiper fit` wrote.")]
OwnBackbone = Annotated[str | None, Option("--backbone", help="Default: the model the file was fitted on.")]
OutFile = Annotated[Path, Option("--out", help="The file to write, .safetensors.")]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """How a model is loaded; None leaves the choice to hiper. See `load_backbone`."""

    device: Annotated[str | None, Option(help="cpu, cuda, cuda:N or mps; default: the fastest there is.")] = (
        None
    )
    dtype: Annotated[
        str | None, Option(help="float32, bfloat16 or float16; default: what suits the device.")
    ] = None
    prediction_type: Annotated[
        str | None,
        Option(
            "--prediction", help="epsilon or v_prediction: what a model predicts whose files do not say it."
        ),
    ] = None
    quantise: Annotated[
        str | None, Option(help="nf4 or int8: the denoiser in 4 or 8 bits (bitsandbytes).")
    ] = None
    memory: Annotated[
        str, Option(help="low: as little as possible, slower; balanced: all stays in memory; or auto.")
    ] = "auto"
    resolution: Annotated[
        int | None, Option(min=8, max=8192, help="Side in pixels; default: the model's.")
    ] = None


Device = Annotated[Hardware, Only("device", "dtype", "prediction_type")]
"""The part of the hardware's options that every command takes which loads a model."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a picture is drawn; None takes the artifact's own setting."""

    strength: Annotated[float | None, Option(help="Of what was learnt; 0: none.")] = None
    guidance_scale: Annotated[
        float | None, Option("--guidance-scale", "--guidance", help="Weight of the sentence.")
    ] = None
    num_inference_steps: Annotated[
        int | None,
        Option("--num-inference-steps", "--steps", min=1, max=1000, help="Denoising steps."),
    ] = None
    scheduler: Annotated[
        str | None, Option(help="ddim, dpm++ and unipc, also with -karras behind, euler, pndm or lcm.")
    ] = None
    height: Annotated[int | None, Option(min=8, max=8192, help="Pixels.")] = None
    width: Annotated[int | None, Option(min=8, max=8192, help="Pixels.")] = None
    negative_prompt: Annotated[str, Option(metavar="TEXT", help="What to keep away from.")] = ""
    keep: Annotated[
        float | None,
        Option(help="How much of the source stays where the sentence does not change it: 0 none, 1 all."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where the work of many subjects is done."""

    engine: Annotated[str, Option(help="local, or ray: a cluster, or Ray on this machine.")] = "local"
    address: Annotated[
        str | None, Option(metavar="ADDRESS", help="Of a running Ray cluster; default: one is started here.")
    ] = None
    cores_per_worker: Annotated[
        int, Option(min=1, max=1024, help="Cores of a Ray worker that has no GPU.")
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
