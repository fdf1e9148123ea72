"""The command that makes one file of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiper.cli.arguments import real
from hiper.cli.options import Json, Overwrite, Quiet
from hiper.cli.requests import session


def average(
    artifacts: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What `hiper fit` wrote.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, .safetensors.")],
    weight: Annotated[
        list[float] | None, typer.Option(parser=real, metavar="X", help="Of each file, in their order.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Average what was learnt from several pictures of one subject."""
    from hiper.cli.combined_files import average_files

    with session(json=json, quiet=quiet) as here:
        average_files(here, artifacts, weight, out, overwrite=overwrite)
