"""`hiper batch`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hiper.cli.arguments import LARGEST_SEED, method_options, real, whole
from hiper.cli.options import (
    Address,
    Backbone,
    CoresPerWorker,
    Deterministic,
    Device,
    Dtype,
    EngineName,
    Images,
    Json,
    MethodName,
    MethodOption,
    Prediction,
    Preset,
    Quiet,
)
from hiper.cli.requests import session
from hiper.engines import EngineSettings


def batch(
    jobs: Annotated[
        Path,
        typer.Argument(metavar="JOBS", help="A .jsonl or .csv file, or a folder of pictures with captions."),
    ],
    out: Annotated[
        str,
        typer.Option(metavar="DIR", help="Where results go, or a URL that fsspec knows; again: it goes on."),
    ],
    sentence: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What to draw of jobs that do not say it; may be repeated."),
    ] = None,
    images: Images = 1,
    seed: Annotated[
        int,
        typer.Option(parser=whole(0, LARGEST_SEED), metavar="N", help="Of the first picture; then +1 each."),
    ] = 0,
    backbone: Backbone = "critters",
    method: MethodName = "hiper",
    preset: Preset = "auto",
    option: MethodOption = None,
    retry: Annotated[bool, typer.Option("--retry", help="Only the jobs that failed before.")] = False,
    together: Annotated[
        int | None,
        typer.Option(
            parser=whole(1, 1024), metavar="N", help="Subjects fitted at a time; default: by preset."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(parser=whole(1, 256), metavar="N", help="Processes at a time.")] = 1,
    engine: EngineName = "local",
    address: Address = None,
    cores_per_worker: CoresPerWorker = 1,
    timeout: Annotated[
        float | None, typer.Option(parser=real, metavar="SECONDS", help="That one job may take.")
    ] = None,
    memory_limit: Annotated[
        float | None, typer.Option(parser=real, metavar="GIB", help="Of one worker, its model included.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    deterministic: Deterministic = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit and draw many subjects, each once, whatever interrupts it."""
    from hiper.batch import BatchSettings, Defaults
    from hiper.cli.batch_job import BatchRequest, checked_limits, run_batch

    checked_limits(timeout, memory_limit)
    request = BatchRequest(
        jobs=jobs,
        out=out,
        defaults=Defaults(
            sentences=tuple(dict.fromkeys(sentence or [])),
            seeds=tuple(range(seed, seed + images)),
            backbone=backbone,
            prediction_type=prediction,
            method=method,
            preset=preset,
            options=method_options(option or [], None),
        ),
        settings=BatchSettings(
            retry=retry,
            together=together,
            seconds=timeout,
            trusted=backbone,
            device=device,
            dtype=dtype,
            deterministic=deterministic,
        ),
        engine=EngineSettings(
            name=engine,
            workers=workers,
            address=address,
            cores_per_worker=cores_per_worker,
            gpus=device is None or device.startswith("cuda"),
            memory_limit=memory_limit,
        ),
    )
    with session(json=json, quiet=quiet) as here:
        run_batch(here, request)
