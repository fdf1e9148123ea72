"""`hiper show`, `average`, `import`, `export` and `methods`: what was learnt, as files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hiper import artifacts, files
from hiper.cli.command import Only
from hiper.cli.console import table
from hiper.cli.fit import load_model
from hiper.cli.options import BackboneName, Device, LearntFile, OutFile, Overwrite, Talking
from hiper.cli.session import Session

Listing = Annotated[Session, Only("json")]


def show(
    session: Listing,
    file: Annotated[
        Path, Argument(metavar="FILE", help="A file written by `hiper fit`, or a PNG drawn by hiper.")
    ],
) -> None:
    """Print the header of a fitted file or the settings of a PNG."""
    from hiper.inference import is_png

    if is_png(file):
        _show_picture(session, file)
        return
    from hiper.artifacts import Artifact

    description = Artifact.load(file).describe()
    session.console.result({"file": str(file), **description}, table(description))


def _show_picture(session: Session, file: Path) -> None:
    from hiper.inference import read_drawn

    drawn = read_drawn(file)
    settings = asdict(drawn.settings)
    carried = None if drawn.artifact is None else drawn.artifact.describe()
    where = "not in this picture" if carried is None else "in this picture"
    session.console.result(
        {"file": str(file), **settings, "artifact": carried}, table({**settings, "artifact": where})
    )


def average(
    session: Talking,
    several: Annotated[list[Path], Argument(metavar="FILE...", help="Files written by `hiper fit`.")],
    out: OutFile,
    weight: Annotated[
        list[float] | None, Option(help="Weight of each file, in order; repeatable; default: equal.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Average fits of several pictures of one subject."""
    files.check_writable(out, overwrite=overwrite)
    with files.lock(out):
        artifact = artifacts.average([artifacts.Artifact.load(path) for path in several], weights=weight)
        artifact.save(out, overwrite=overwrite)
    session.console.result({"artifact": str(out), **artifact.describe()}, [str(out)])


def import_file(
    session: Talking,
    file: Annotated[Path, Argument(metavar="FILE.pt", help="A tail saved by the paper's reference script.")],
    caption: Annotated[str, Option(metavar="TEXT", help="What the picture shows.")],
    backbone: BackboneName,
    out: OutFile,
    hardware: Device,
    overwrite: Overwrite = False,
) -> None:
    """Import a tail saved by the paper's reference script."""
    files.check_writable(out, overwrite=overwrite)
    with files.lock(out), session.progress() as report:
        model = load_model(backbone, hardware, report)
        from hiper.artifacts import import_reference

        artifact = import_reference(file, backbone=model, caption=caption)
        artifact.save(out, overwrite=overwrite)
    session.console.result({"artifact": str(out), **artifact.describe()}, [str(out)])


def export(session: Talking, file: LearntFile, out: OutFile, overwrite: Overwrite = False) -> None:
    """Export a fitted file for plain diffusers. Writes a textual inversion, a LoRA or weights, by method."""
    files.check_writable(out, overwrite=overwrite)
    import safetensors.torch

    from hiper.artifacts import Artifact
    from hiper.methods import get_method

    artifact = Artifact.load(file)
    tensors = get_method(artifact.method).exported(artifact)
    files.atomic_write(out, safetensors.torch.save(dict(tensors)), overwrite=overwrite)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    session.console.result({"file": str(out), "method": artifact.method, "tensors": shapes}, [str(out)])


def methods(session: Listing) -> None:
    """List what --method accepts."""
    from hiper.options import method_names

    names = method_names()
    session.console.result({"methods": names}, names)
