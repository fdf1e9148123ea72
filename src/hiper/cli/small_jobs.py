"""`hiper demo`, `show`, `import`, `export` and `methods`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from hiper import files
from hiper.cli.fit_job import load_model
from hiper.cli.progress import progress
from hiper.cli.requests import Hardware, Session
from hiper.files import make_folder
from hiper.training import duration


def demo(session: Session, out: Path, *, seed: int, overwrite: bool) -> None:
    """Run the whole story on the embedded model; print its figures and where its sheet is."""
    make_folder(out)
    with progress(quiet=session.console.quiet) as report:
        report("loading critters", 0, 0)
        from hiper.analysis import run_demo

        done = run_demo(out, seed=seed, overwrite=overwrite, progress=report)
    record = {"sheet": str(done.sheet), "figures": done.figures, "seconds": done.seconds}
    lines = [*_table(done.figures), f"{done.sheet} (in {duration(done.seconds)})"]
    session.console.result(record, lines)


def show(session: Session, file: Path) -> None:
    """Print what an artifact, or a picture that hiper drew, says of itself."""
    from hiper.inference import is_png

    if is_png(file):
        _show_picture(session, file)
        return
    from hiper.artifacts import Artifact

    description = Artifact.load(file).describe()
    session.console.result({"file": str(file), **description}, _table(description))


def _show_picture(session: Session, file: Path) -> None:
    from hiper.inference import read_drawn

    drawn = read_drawn(file)
    settings = asdict(drawn.settings)
    carried = None if drawn.artifact is None else drawn.artifact.describe()
    where = "not in this picture" if carried is None else "in this picture"
    session.console.result(
        {"file": str(file), **settings, "artifact": carried}, _table({**settings, "artifact": where})
    )


def import_file(
    session: Session,
    file: Path,
    caption: str,
    backbone: str,
    hardware: Hardware,
    out: Path,
    *,
    overwrite: bool,
) -> None:
    """Turn a tail of the reference script into an artifact."""
    files.check_writable(out, overwrite=overwrite)
    with files.lock(out), progress(quiet=session.console.quiet) as report:
        model = load_model(backbone, hardware, report)
        from hiper.artifacts import import_reference

        artifact = import_reference(file, backbone=model, caption=caption)
        artifact.save(out, overwrite=overwrite)
    session.console.result({"artifact": str(out), **artifact.describe()}, [str(out)])


def export(session: Session, file: Path, out: Path, *, overwrite: bool) -> None:
    """Write what an artifact has learnt in the form in which diffusers loads it."""
    files.check_writable(out, overwrite=overwrite)
    import safetensors.torch

    from hiper.artifacts import Artifact
    from hiper.methods import get_method

    artifact = Artifact.load(file)
    tensors = get_method(artifact.method).exported(artifact)
    files.atomic_write(out, safetensors.torch.save(dict(tensors)), overwrite=overwrite)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    session.console.result({"file": str(out), "method": artifact.method, "tensors": shapes}, [str(out)])


def methods(session: Session) -> None:
    """List what `--method` takes."""
    from hiper.options import method_names

    names = method_names()
    session.console.result({"methods": names}, names)


def _table(values: Mapping[str, object]) -> Iterator[str]:
    """One line per name, the values below each other; what is empty is left out."""
    width = max(map(len, values)) + 2
    for name, value in values.items():
        text = _shown(value)
        if text:
            yield f"{name:{width}}{text}"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:z.4g}"
    return "" if value is None else str(value)
