"""`hiper demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from hiper.cli.console import table
from hiper.cli.options import Overwrite, Talking
from hiper.files import make_folder
from hiper.training import duration


def demo(
    session: Talking,
    out: Annotated[
        Path | None, Option(metavar="DIR", help="Output folder; default: demo, overwritten.")
    ] = None,
    seed: Annotated[int, Option(min=0, max=10**8, help="Seed that chooses the animal.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fit and edit a cartoon animal with the toy model."""
    folder = out or Path("demo")
    make_folder(folder)
    with session.progress() as report:
        report("loading critters", 0, 0)
        from hiper.analysis import run_demo

        done = run_demo(folder, seed=seed, overwrite=overwrite or out is None, progress=report)
    record = {"sheet": str(done.sheet), "figures": done.figures, "seconds": done.seconds}
    lines = [*table(done.figures), f"{done.sheet} (in {duration(done.seconds)})"]
    session.console.result(record, lines)
