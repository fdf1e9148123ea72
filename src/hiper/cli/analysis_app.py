"""The commands that look into a method rather than use it, and their options."""

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
    Guidance,
    Height,
    Json,
    NegativePrompt,
    Overwrite,
    Prediction,
    Quiet,
    Scheduler,
    Steps,
    Strength,
    Width,
)
from hiper.cli.requests import Hardware, session
from hiper.engines import EngineSettings


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
    height: Height = None,
    width: Width = None,
    negative_prompt: NegativePrompt = "",
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: the model the file was fitted on.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    deterministic: Deterministic = False,
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
        height=height,
        width=width,
        negative_prompt=negative_prompt,
        overwrite=overwrite,
    )
    with session(json=json, quiet=quiet, deterministic=deterministic) as here:
        attention_to_folder(
            here,
            file,
            request,
            backbone,
            Hardware(device=device, dtype=dtype, prediction_type=prediction),
            out,
        )


def sweep(
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="critters, or a .toml file of your own photographs.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run is kept; again: it goes on.")],
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION=VALUES",
            help="tail=1,2,5: may be repeated; each option alone, the others as in --base.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="paper: the paper's ablation and more, instead of --over."),
    ] = None,
    base: Annotated[
        str, typer.Option(metavar="ARM", help="METHOD, METHOD:PRESET or METHOD:PRESET,option=value,...")
    ] = "hiper",
    backbone: Backbone = "critters",
    split: Annotated[str | None, typer.Option(metavar="NAME", help="tuning or test; default: test.")] = None,
    seed: Annotated[
        int,
        typer.Option(parser=whole(0, 10**8), metavar="N", help="Chooses the subjects; of the first picture."),
    ] = 0,
    seeds: Annotated[int, typer.Option(parser=whole(1, 1000), metavar="N", help="Pictures per edit.")] = 1,
    limit: Annotated[
        int | None, typer.Option(parser=whole(1), metavar="N", help="Only the first N subjects.")
    ] = None,
    jobs: Annotated[int, typer.Option(parser=whole(1, 256), metavar="N", help="Processes at a time.")] = 1,
    success: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="Whether the edit succeeds; default: the suite's usual one."),
    ] = None,
    identity: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Whether the subject survives; default: likewise.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    deterministic: Deterministic = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Vary one option of a method at a time: identity against edit success, with a figure for each."""
    from hiper.cli.bench_job import BenchRequest
    from hiper.cli.sweep_job import SweepRequest, run_sweep

    bench = BenchRequest(
        suite=suite,
        split=split,
        seed=seed,
        arms=(),
        backbone=backbone,
        seeds=seeds,
        limit=limit,
        engine=EngineSettings(workers=jobs),
    )
    request = SweepRequest(over=over or (), preset=preset, base=base, success=success, identity=identity)
    with session(json=json, quiet=quiet, deterministic=deterministic) as here:
        run_sweep(here, request, bench, Hardware(device=device, dtype=dtype, prediction_type=prediction), out)
