"""`hiper estimate fit` and `edit`: load, count, time a few calls, tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from hiper.backbones import LocalModel, describe, models
from hiper.cli.arguments import method_options
from hiper.cli.backbones import size
from hiper.cli.command import Only
from hiper.cli.fit import load_model
from hiper.cli.options import (
    BackboneName,
    BatchSize,
    Hardware,
    Images,
    MethodOption,
    Preset,
    SamplingOptions,
    Talking,
)
from hiper.cli.progress import Report
from hiper.errors import BackboneError
from hiper.training import duration

if TYPE_CHECKING:
    from hiper.analysis import Estimate, Part
    from hiper.backbones import Backbone


def fit(
    session: Talking,
    hardware: Hardware,
    backbone: BackboneName = "critters",
    preset: Preset = "auto",
    option: MethodOption = None,
) -> None:
    """Estimate a fit by the method hiper."""
    from hiper.methods import get_method

    options = get_method("hiper").options_for(backbone, preset, **method_options(option))
    with session.progress() as report:
        model = _loaded(backbone, hardware, report)
        from hiper.analysis import estimate_fit

        report("counting, then timing a few calls", 0, 0)
        found = estimate_fit(model, options)
    session.console.result(found.as_record(), _lines(found))


def edit(
    session: Talking,
    hardware: Hardware,
    sampling: Annotated[
        SamplingOptions, Only("guidance_scale", "num_inference_steps", "height", "width", "keep")
    ],
    backbone: BackboneName = "critters",
    sentences: Annotated[
        int, Option("--prompts", "--sentences", min=1, max=10_000, help="Number of prompts.")
    ] = 1,
    images: Images = 1,
    batch_size: BatchSize = 4,
) -> None:
    """Estimate edits with a tail."""
    with session.progress() as report:
        model = _loaded(backbone, hardware, report)
        from hiper.analysis import estimate_edit, usual_settings
        from hiper.options import sampling_of

        notes: list[str] = []
        settings = usual_settings(model, notes, **sampling_of(sampling))
        session.console.note(*notes)
        report("counting, then timing a few calls", 0, 0)
        found = estimate_edit(model, settings, images=images, batch_size=batch_size, sentences=sentences)
    session.console.result(found.as_record(), _lines(found))


def _loaded(name: str, hardware: Hardware, report: Report) -> Backbone:
    """Load the model, unless its files say that its weights do not fit into the memory."""
    found = _described(name)
    if found is not None:
        _check_room(found, hardware)
    return load_model(name, hardware, report)


def _described(name: str) -> LocalModel | None:
    """Return what the files of a model on this computer say; None of one that is not there, or is one file."""
    if Path(name).is_dir():
        return describe(name, Path(name))
    return next((each for each in models() if isinstance(each, LocalModel) and each.name == name), None)


def _check_room(model: LocalModel, hardware: Hardware) -> None:
    """BackboneError for weights larger than what is free; they all pass through the computer's own memory."""
    import torch

    from hiper.analysis import free_memory
    from hiper.backbones import resolve_device, resolve_dtype

    dtype = resolve_dtype(hardware.dtype, resolve_device(hardware.device))
    needed, free = sum(model.parameters.values()) * dtype.itemsize, free_memory(torch.device("cpu"))
    if needed > free:
        raise BackboneError(
            f"the weights of {model.name} take {size(needed)} as {str(dtype).removeprefix('torch.')}, and"
            f" {size(free)} are free; try dtype=bfloat16, close other programs, or take a smaller model"
        )


def _lines(found: Estimate) -> Iterator[str]:
    memory, threads = found.memory, f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    yield f"job      {found.job}"
    where = f", {threads}" if found.device == "cpu" else ""
    yield f"model    {found.backbone}, {found.side} pixels, {found.device}, {found.dtype}{where}"
    yield f"{'':40}{'times':>8}{'s each':>10}{'s in all':>10}{'GFLOP each':>12}"
    for part in found.parts:
        yield _row(part)
    yield f"time     {_time(found)}"
    yield f"compute  {found.flops / 1e12:.3g} TFLOP in all (counted)"
    yield (
        f"memory   {size(memory.needed)} (counted, libraries not included): weights {size(memory.loading)} at"
        f" loading, then {size(memory.working)} and {size(memory.computed)} that a call computes at once"
    )
    yield (
        f"         {size(memory.reached)} reached here (measured, libraries included), {size(memory.free)} free:"
        f" it {'fits' if found.fits else 'does not fit'}"
    )


def _row(part: Part) -> str:
    each, every = (
        "-" if seconds is None else f"{seconds:.3g}" for seconds in (part.seconds, part.all_seconds)
    )
    flops = "-" if part.work is None else f"{part.work.flops / 1e9:.4g}"
    return f"  {part.name:38}{part.times:>8.4g}{each:>10}{every:>10}{flops:>12}"


def _time(found: Estimate) -> str:
    if found.seconds is None:
        return "not timed: what a call computes does not fit into the memory that is free"
    return f"about {duration(found.seconds)} once the model is loaded (calls measured here, their number computed)"
