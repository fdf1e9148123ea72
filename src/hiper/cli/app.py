"""The commands and their options. Each command gathers what was asked for and hands it to its job."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from hiper.cli.analysis_app import attention, sweep
from hiper.cli.arguments import method_options, one_picture, refuse_pictures, whole
from hiper.cli.batch_app import batch
from hiper.cli.bench_app import bench_app
from hiper.cli.combining_app import average
from hiper.cli.estimate_app import estimate_app
from hiper.cli.options import (
    AllowTruncated,
    AutoCaption,
    Backbone,
    Background,
    BatchSize,
    Caption,
    Captioner,
    CheckpointEvery,
    Deterministic,
    Device,
    Dtype,
    EditSeed,
    FitSeed,
    Folder,
    Frame,
    Guidance,
    Height,
    Images,
    Json,
    Keep,
    Mask,
    Memory,
    MethodName,
    MethodOption,
    Negative,
    NegativePrompt,
    NegativeStrength,
    NoArtifact,
    NoMetadata,
    Others,
    Overwrite,
    Picture,
    Prediction,
    Preset,
    Prompts,
    Quantise,
    Quiet,
    ReportPage,
    Resolution,
    Scheduler,
    Steps,
    Strength,
    Width,
    With,
    WithStrength,
)
from hiper.cli.requests import EditRequest, FitRequest, Hardware, Learnt, session
from hiper.cli.system_app import backbones, doctor, selfcheck
from hiper.cli.tuning_app import tune

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench_app, name="bench")
app.add_typer(estimate_app, name="estimate")
app.command()(attention)
app.command()(average)
app.command()(backbones)
app.command()(batch)
app.command()(doctor)
app.command()(selfcheck)
app.command()(sweep)
app.command()(tune)

DEFAULT_DEMO_FOLDER = Path("demo")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hiper {version('hiper')}")
        raise typer.Exit


@app.callback()
def hiper(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One picture and one sentence in, a small file out; from then on any sentence edits that picture."""


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: demo, overwritten.")] = None,
    seed: Annotated[int, typer.Option(parser=whole(0, 10**8), metavar="N", help="Chooses the animal.")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See the whole story on the embedded model: fit, edit, contact sheet."""
    from hiper.cli.small_jobs import demo as job

    with session(json=json, quiet=quiet) as here:
        job(here, out or DEFAULT_DEMO_FOLDER, seed=seed, overwrite=overwrite or out is None)


@app.command()
def fit(
    image: Picture,
    caption: AutoCaption,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, .safetensors.")],
    others: Others = None,
    captioner: Captioner = None,
    backbone: Backbone = "critters",
    method: MethodName = "hiper",
    preset: Preset = "auto",
    option: MethodOption = None,
    mask: Mask = None,
    seed: FitSeed = None,
    frame: Frame = None,
    background: Background = "white",
    allow_truncated: AllowTruncated = False,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    quantise: Quantise = None,
    memory: Memory = "auto",
    resolution: Resolution = None,
    deterministic: Deterministic = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a fit that was stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start anew although one was stopped.")] = False,
    checkpoint_every: CheckpointEvery = 20,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn the subject of one picture."""
    from hiper.cli.fit_job import fit_to_file

    one_picture(others)
    request = FitRequest(
        backbone=backbone,
        image=image,
        caption=caption,
        captioner=captioner,
        mask=mask,
        frame=frame,
        background=background,
        allow_truncated=allow_truncated,
        method=method,
        preset=preset,
        options=method_options(option or [], seed),
    )
    hardware = Hardware(
        device=device,
        dtype=dtype,
        prediction_type=prediction,
        quantise=quantise,
        memory=memory,
        resolution=resolution,
    )
    with session(json=json, quiet=quiet, deterministic=deterministic) as here:
        fit_to_file(
            here,
            request,
            hardware,
            out,
            resume=resume,
            force=force,
            overwrite=overwrite,
            checkpoint_seconds=checkpoint_every,
        )


@app.command()
def edit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `hiper fit` wrote.")],
    prompts: Prompts,
    out: Folder,
    images: Images = 1,
    seed: EditSeed = 0,
    strength: Strength = None,
    with_: With = None,
    with_strength: WithStrength = None,
    negative: Negative = None,
    negative_strength: NegativeStrength = None,
    guidance: Guidance = None,
    steps: Steps = None,
    scheduler: Scheduler = None,
    height: Height = None,
    width: Width = None,
    negative_prompt: NegativePrompt = "",
    keep: Keep = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: the model the file was fitted on.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    quantise: Quantise = None,
    memory: Memory = "auto",
    resolution: Resolution = None,
    deterministic: Deterministic = False,
    batch_size: BatchSize = 4,
    report: ReportPage = None,
    no_artifact: NoArtifact = False,
    no_metadata: NoMetadata = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw what sentences say, with the learnt subject in it."""
    from hiper.cli.edit_job import edit_to_folder

    request = EditRequest(
        prompts=prompts,
        images=images,
        seed=seed,
        strength=strength,
        guidance=guidance,
        steps=steps,
        scheduler=scheduler,
        height=height,
        width=width,
        negative_prompt=negative_prompt,
        keep=keep,
        batch_size=batch_size,
        metadata=not no_metadata,
        carry=not no_artifact,
        report=report,
        command=context.obj,
        overwrite=overwrite,
    )
    learnt = Learnt(
        file=file,
        others=with_ or [],
        other_strengths=with_strength or [],
        negative=negative,
        negative_strength=negative_strength,
    )
    with session(json=json, quiet=quiet, deterministic=deterministic) as here:
        edit_to_folder(
            here,
            learnt,
            request,
            backbone,
            Hardware(
                device=device,
                dtype=dtype,
                prediction_type=prediction,
                quantise=quantise,
                memory=memory,
                resolution=resolution,
            ),
            out,
        )


@app.command()
def run(
    context: typer.Context,
    image: Picture,
    prompts: Prompts,
    caption: AutoCaption,
    out: Folder,
    captioner: Captioner = None,
    backbone: Backbone = "critters",
    method: MethodName = "hiper",
    preset: Preset = "auto",
    option: MethodOption = None,
    mask: Mask = None,
    frame: Frame = None,
    background: Background = "white",
    allow_truncated: AllowTruncated = False,
    images: Images = 1,
    seed: EditSeed = 0,
    strength: Strength = None,
    guidance: Guidance = None,
    steps: Steps = None,
    scheduler: Scheduler = None,
    height: Height = None,
    width: Width = None,
    negative_prompt: NegativePrompt = "",
    keep: Keep = None,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    quantise: Quantise = None,
    memory: Memory = "auto",
    resolution: Resolution = None,
    deterministic: Deterministic = False,
    batch_size: BatchSize = 4,
    report: ReportPage = None,
    no_artifact: NoArtifact = False,
    no_metadata: NoMetadata = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit, or reuse the fit of an earlier run, then draw: one command for both."""
    from hiper.cli.run_job import run as job

    refuse_pictures(prompts)
    fit_request = FitRequest(
        backbone=backbone,
        image=image,
        caption=caption,
        captioner=captioner,
        mask=mask,
        frame=frame,
        background=background,
        allow_truncated=allow_truncated,
        method=method,
        preset=preset,
        options=method_options(option or [], None),
    )
    edit_request = EditRequest(
        prompts=prompts,
        images=images,
        seed=seed,
        strength=strength,
        guidance=guidance,
        steps=steps,
        scheduler=scheduler,
        height=height,
        width=width,
        negative_prompt=negative_prompt,
        keep=keep,
        batch_size=batch_size,
        metadata=not no_metadata,
        carry=not no_artifact,
        report=report,
        command=context.obj,
        overwrite=overwrite,
    )
    with session(json=json, quiet=quiet, deterministic=deterministic) as here:
        job(
            here,
            fit_request,
            edit_request,
            Hardware(
                device=device,
                dtype=dtype,
                prediction_type=prediction,
                quantise=quantise,
                memory=memory,
                resolution=resolution,
            ),
            out,
        )


@app.command()
def ui(
    backbone: Backbone = "critters",
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    deterministic: Deterministic = False,
    host: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: 127.0.0.1, which only this computer reaches.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(parser=whole(1, 65535), metavar="N", help="Default: a free one from 7860 on."),
    ] = None,
    library: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where learnt subjects are kept.")
    ] = None,
    max_upload_mb: Annotated[
        int, typer.Option(parser=whole(1, 10_000), metavar="N", help="Largest file that may be uploaded.")
    ] = 50,
    clip: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="CLIP weights that rank seeds by the sentence.")
    ] = None,
    dino: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="DINOv2 weights that rank seeds by likeness.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Open the web page: learn, draw and compare without a command line."""
    from hiper.cli.ui_job import UiRequest
    from hiper.cli.ui_job import ui as job

    request = UiRequest(
        backbone=backbone,
        host=host,
        port=port,
        library=library,
        max_upload_mb=max_upload_mb,
        clip=clip,
        dino=dino,
    )
    with session(json=json, quiet=quiet, deterministic=deterministic) as here:
        job(here, request, Hardware(device=device, dtype=dtype, prediction_type=prediction))


@app.command()
def show(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What `hiper fit` wrote, or a PNG that hiper drew.")
    ],
    json: Json = False,
) -> None:
    """Print what a file says of itself."""
    from hiper.cli.small_jobs import show as job

    with session(json=json, quiet=False) as here:
        job(here, file)


@app.command()
def rerun(
    picture: Annotated[Path, typer.Argument(metavar="PNG", help="A picture that hiper drew.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: NAME-rerun.png beside it.")
    ] = None,
    artifact: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For a picture that does not carry what was learnt.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: the model that drew the picture.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    deterministic: Deterministic = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw a picture again from the settings it carries."""
    from hiper.cli.rerun_job import rerun_to_file

    hardware = Hardware(device=device, dtype=dtype, prediction_type=prediction)
    with session(json=json, quiet=quiet, deterministic=deterministic) as here:
        rerun_to_file(here, picture, artifact, backbone, hardware, out, overwrite=overwrite)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.pt", help="A tail of the paper's reference script.")],
    caption: Caption,
    backbone: Backbone,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, .safetensors.")],
    device: Device = None,
    dtype: Dtype = None,
    prediction: Prediction = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take over a tail that the reference script saved."""
    from hiper.cli.small_jobs import import_file

    with session(json=json, quiet=quiet) as here:
        hardware = Hardware(device=device, dtype=dtype, prediction_type=prediction)
        import_file(here, file, caption, backbone, hardware, out, overwrite=overwrite)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `hiper fit` wrote.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, .safetensors.")],
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write what was learnt as a file that diffusers loads: a textual inversion, a LoRA, a denoiser's weights."""
    from hiper.cli.small_jobs import export as job

    with session(json=json, quiet=quiet) as here:
        job(here, file, out, overwrite=overwrite)


@app.command()
def methods(json: Json = False) -> None:
    """List what --method takes."""
    from hiper.cli.small_jobs import methods as job

    with session(json=json, quiet=False) as here:
        job(here)
