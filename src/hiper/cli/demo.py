"""`hiper demo`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from typer import Option

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
    """Fit and edit a cartoon animal with the embedded model."""
    folder = out or Path("demo")
    make_folder(folder)
    with session.progress() as report:
        report("loading critters", 0, 0)
        from hiper.analysis import run_demo

        done = run_demo(folder, seed=seed, overwrite=overwrite or out is None, progress=report)
    record = {"sheet": str(done.sheet), "figures": done.figures, "seconds": done.seconds}
    lines = [*_distances(done.figures), f"{done.sheet} (took {duration(done.seconds)})"]
    session.console.result(record, lines)


def _distances(figures: Mapping[str, float | str]) -> Iterator[str]:
    """Yield a table of the colour distances, a line for each kind of edit."""
    yield "colour distance of the subject to the true answer (CIE76; lower is better, 2.3 is just noticeable)"
    names = [key.removeprefix("mean, ") for key in figures if key.startswith("mean, ")]
    yield "  ".join([" " * 12, *names])
    for kind in dict.fromkeys(key.partition(", ")[0] for key in figures if ", " in key):
        cells = [f"{figures[f'{kind}, {name}']:>{len(name)}.2f}" for name in names]
        yield "  ".join([f"{kind:12}", *cells])
