"""The commands that look at the installation and the models that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiper.cli.arguments import whole
from hiper.cli.options import (
    Backbone,
    Deterministic,
    Device,
    Dtype,
    Json,
    Memory,
    Prediction,
    Quantise,
    Quiet,
    Resolution,
)
from hiper.cli.requests import Hardware, session


def backbones(
    measure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Draw with this model to see how much its last text rows matter."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List what --backbone takes, and the models on this computer: text rows, tail, memory, licence."""
    from hiper.cli.backbones_job import backbones as job

    with session(json=json, quiet=quiet) as here:
        job(here, measure or [], Hardware(device=device, dtype=dtype, prediction_type=prediction))


def doctor(json: Json = False, quiet: Quiet = False) -> None:
    """Look for what is broken in this installation, and say how to mend it. Exit status 1 if something is."""
    from hiper.cli.doctor_job import doctor as job

    with session(json=json, quiet=quiet) as here:
        usable = job(here)
    if not usable:
        raise typer.Exit(1)


def selfcheck(
    backbone: Backbone,
    image: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Default: an animal that hiper draws.")
    ] = None,
    caption: Annotated[str | None, typer.Option(metavar="TEXT", help="What that picture shows.")] = None,
    steps: Annotated[int, typer.Option(parser=whole(1, 1000), metavar="N", help="Of the short fit.")] = 20,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    quantise: Quantise = None,
    memory: Memory = "auto",
    resolution: Resolution = None,
    deterministic: Deterministic = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try a model for about a minute: loss, how far it listens to a tail, time and memory, ready to paste."""
    from hiper.cli.selfcheck_job import selfcheck as job

    hardware = Hardware(
        device=device,
        dtype=dtype,
        prediction_type=prediction,
        quantise=quantise,
        memory=memory,
        resolution=resolution,
    )
    with session(json=json, quiet=quiet, deterministic=deterministic) as here:
        job(here, backbone, hardware, image, caption, steps)
