"""The commands that look at the installation and the models that are there."""

from __future__ import annotations

from typing import Annotated

import typer

from hiper.cli.options import Device, Dtype, Json, Quiet
from hiper.cli.requests import Hardware, session


def backbones(
    measure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Draw with this model to see how much its last text rows matter."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List what --backbone takes, and the models on this computer: text rows, tail, memory, licence."""
    from hiper.cli.backbones_job import backbones as job

    with session(json=json, quiet=quiet) as here:
        job(here, measure or [], Hardware(device=device, dtype=dtype))


def doctor(json: Json = False, quiet: Quiet = False) -> None:
    """Look for what is broken in this installation, and say how to mend it. Exit status 1 if something is."""
    from hiper.cli.doctor_job import doctor as job

    with session(json=json, quiet=quiet) as here:
        usable = job(here)
    if not usable:
        raise typer.Exit(1)
