"""`hiper bench`: its commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiper.cli.arguments import whole
from hiper.cli.options import (
    Address,
    Backbone,
    CoresPerWorker,
    Deterministic,
    Device,
    Dtype,
    EngineName,
    Json,
    Overwrite,
    Prediction,
    Quiet,
)
from hiper.cli.requests import Hardware, session
from hiper.engines import EngineSettings

bench_app = typer.Typer(
    rich_markup_mode=None,
    help="Compare methods on a suite of subjects and edits: run, then report.",
)


@bench_app.command()
def run(
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="critters, or a .toml file of your own photographs.")
    ],
    methods: Annotated[
        list[str],
        typer.Option(
            "--methods",
            metavar="ARM",
            help="May be repeated: METHOD, METHOD:PRESET, METHOD:PRESET,option=value,... or a yardstick:"
            " none, truth, spelled-out, source, other-tail, random-tail.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run is kept; again: it goes on.")],
    backbone: Backbone = "critters",
    split: Annotated[str | None, typer.Option(metavar="NAME", help="tuning or test; default: test.")] = None,
    seed: Annotated[
        int,
        typer.Option(parser=whole(0, 10**8), metavar="N", help="Chooses the subjects; of the first picture."),
    ] = 0,
    seeds: Annotated[int, typer.Option(parser=whole(1, 1000), metavar="N", help="Pictures per edit.")] = 2,
    limit: Annotated[
        int | None, typer.Option(parser=whole(1), metavar="N", help="Only the first N subjects.")
    ] = None,
    jobs: Annotated[int, typer.Option(parser=whole(1, 256), metavar="N", help="Processes at a time.")] = 1,
    engine: EngineName = "local",
    address: Address = None,
    cores_per_worker: CoresPerWorker = 1,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    deterministic: Deterministic = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw and score what is not there yet: every arm, subject and edit."""
    from hiper.cli.bench_job import BenchRequest, run_bench

    request = BenchRequest(
        suite=suite,
        split=split,
        seed=seed,
        arms=methods,
        backbone=backbone,
        seeds=seeds,
        limit=limit,
        engine=EngineSettings(
            name=engine,
            workers=jobs,
            address=address,
            cores_per_worker=cores_per_worker,
            gpus=device is None or device.startswith("cuda"),
        ),
    )
    with session(json=json, quiet=quiet, deterministic=deterministic) as here:
        run_bench(here, request, Hardware(device=device, dtype=dtype, prediction_type=prediction), out)


@bench_app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `hiper bench run` wrote.")],
    reference: Annotated[
        str | None, typer.Option(metavar="ARM", help="Compare with this arm; default: the first hiper.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: DIR/report, overwritten.")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write tables and a page of pictures."""
    from hiper.cli.bench_job import report_bench

    with session(json=json, quiet=quiet) as here:
        report_bench(here, folder, reference, out or folder / "report", overwrite=overwrite or out is None)
