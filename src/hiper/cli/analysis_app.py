"""The commands that look into a method rather than use it, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiper.cli.arguments import whole
from hiper.cli.options import (
    Device,
    Dtype,
    Guidance,
    Json,
    Overwrite,
    Quiet,
    Scheduler,
    Steps,
    Strength,
)
from hiper.cli.requests import Hardware, session


def attention(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `hiper fit` wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where attention.html and attention.json go.")],
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What to draw; default: the caption it was learnt from."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Read this picture under noise instead of drawing.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="MASK", help="Of that picture, white where the subject is.")
    ] = None,
    seed: Annotated[int, typer.Option(parser=whole(0), metavar="N", help="Of the noise.")] = 0,
    strength: Strength = None,
    guidance: Guidance = None,
    steps: Steps = None,
    scheduler: Scheduler = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: the model the file was fitted on.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See which text rows the picture looks at, and where: words, padding, and what was learnt."""
    from hiper.cli.attention_job import AttentionRequest, attention_to_folder

    request = AttentionRequest(
        prompt=prompt,
        picture=picture,
        mask=mask,
        seed=seed,
        strength=strength,
        guidance=guidance,
        steps=steps,
        scheduler=scheduler,
        overwrite=overwrite,
    )
    with session(json=json, quiet=quiet) as here:
        attention_to_folder(here, file, request, backbone, Hardware(device=device, dtype=dtype), out)
