"""The commands that look at the installation and the models that are there."""

from __future__ import annotations

import typer

from hiper.cli.options import Json, Quiet
from hiper.cli.requests import session


def doctor(json: Json = False, quiet: Quiet = False) -> None:
    """Look for what is broken in this installation, and say how to mend it. Exit status 1 if something is."""
    from hiper.cli.doctor_job import doctor as job

    with session(json=json, quiet=quiet) as here:
        usable = job(here)
    if not usable:
        raise typer.Exit(1)
