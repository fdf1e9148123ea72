"""The command that finds settings for a model of one's own."""

from __future__ import annotations

from typing import Annotated

import typer

from hiper.cli.arguments import method_options, one_picture, whole
from hiper.cli.options import (
    Backbone,
    Caption,
    Deterministic,
    Device,
    Dtype,
    FitSeed,
    Json,
    Memory,
    Others,
    Overwrite,
    Picture,
    Prediction,
    Quantise,
    Quiet,
    Resolution,
)
from hiper.cli.requests import FitRequest, Hardware, session


def tune(
    image: Picture,
    caption: Caption,
    out: Annotated[
        str,
        typer.Option(metavar="NAME", help="What --preset will take: a name, or a file that ends in .json."),
    ],
    others: Others = None,
    backbone: Backbone = "critters",
    evaluations: Annotated[
        int,
        typer.Option(
            parser=whole(4, 10_000), metavar="N", help="Noise levels a fit sees when step sizes are tried."
        ),
    ] = 48,
    seed: FitSeed = None,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    quantise: Quantise = None,
    memory: Memory = "auto",
    resolution: Resolution = None,
    deterministic: Deterministic = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the step size, batch and length of fits on a model, from one picture."""
    from hiper.cli.tune_job import tune as job

    one_picture(others)
    request = FitRequest(
        backbone=backbone,
        image=image,
        caption=caption,
        captioner=None,
        mask=None,
        frame=None,
        background="white",
        allow_truncated=False,
        method="hiper",
        preset="auto",
        options=method_options([], seed),
    )
    hardware = Hardware(
        device=device,
        dtype=dtype,
        prediction_type=prediction,
        quantise=quantise,
        memory=memory,
        resolution=resolution,
    )
    with session(json=json, quiet=quiet, deterministic=deterministic) as here:
        job(here, request, hardware, out, evaluations, overwrite=overwrite)
