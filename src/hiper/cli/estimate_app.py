"""`hiper estimate`: how long a job will take and how much memory, before it starts."""

from __future__ import annotations

from typing import Annotated

import typer

from hiper.cli.arguments import method_options, whole
from hiper.cli.options import (
    Backbone,
    BatchSize,
    Device,
    Dtype,
    Guidance,
    Height,
    Images,
    Json,
    Memory,
    MethodOption,
    Prediction,
    Preset,
    Quantise,
    Quiet,
    Resolution,
    Steps,
    Width,
)
from hiper.cli.requests import Hardware, session

estimate_app = typer.Typer(
    rich_markup_mode=None,
    help="Say how long a fit or an edit will take and how much memory: counted, and timed on a few calls.",
)


@estimate_app.command()
def fit(
    backbone: Backbone = "critters",
    preset: Preset = "auto",
    option: MethodOption = None,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    quantise: Quantise = None,
    memory: Memory = "auto",
    resolution: Resolution = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate `hiper fit` by the method hiper."""
    from hiper.cli.estimate_job import estimate_fit as job

    hardware = Hardware(
        device=device,
        dtype=dtype,
        prediction_type=prediction,
        quantise=quantise,
        memory=memory,
        resolution=resolution,
    )
    with session(json=json, quiet=quiet) as here:
        job(here, backbone, hardware, preset, method_options(option or [], None))


@estimate_app.command()
def edit(
    backbone: Backbone = "critters",
    sentences: Annotated[
        int, typer.Option(parser=whole(1, 10_000), metavar="N", help="How many prompts there will be.")
    ] = 1,
    images: Images = 1,
    guidance: Guidance = None,
    steps: Steps = None,
    height: Height = None,
    width: Width = None,
    batch_size: BatchSize = 4,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    quantise: Quantise = None,
    memory: Memory = "auto",
    resolution: Resolution = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate `hiper edit` of a file that method hiper fitted."""
    from hiper.cli.estimate_job import EditPlan
    from hiper.cli.estimate_job import estimate_edit as job

    hardware = Hardware(
        device=device,
        dtype=dtype,
        prediction_type=prediction,
        quantise=quantise,
        memory=memory,
        resolution=resolution,
    )
    plan = EditPlan(
        sentences=sentences,
        images=images,
        guidance=guidance,
        steps=steps,
        height=height,
        width=width,
        batch_size=batch_size,
    )
    with session(json=json, quiet=quiet) as here:
        job(here, backbone, hardware, plan)
