"""`hiper tune`: from one picture to a preset; what a stopped search has tried is kept beside it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from typer import Option

from hiper import files
from hiper.cli.arguments import one_picture
from hiper.cli.command import Only
from hiper.cli.fit import FitRequest, load_model, prepare
from hiper.cli.options import Hardware, Others, Overwrite
from hiper.cli.session import Session
from hiper.errors import HiperWarning, OptionError
from hiper.files import parse_json
from hiper.options import conforms


def tune(
    session: Session,
    request: Annotated[FitRequest, Only("image", "caption", "backbone", "seed")],
    hardware: Hardware,
    *,
    others: Others = None,
    out: Annotated[str, Option(help="Name for --preset, or a file ending in .json.")],
    evaluations: Annotated[
        int, Option(min=4, max=10_000, help="Timesteps per fit while learning rates are tried.")
    ] = 48,
    overwrite: Overwrite = False,
) -> None:
    """Find learning rate, batch size and steps for a model."""
    one_picture(others)
    from hiper.methods import ENDING, get_method, preset_path

    if out in get_method(request.method).presets:
        raise OptionError(f"--out is {out!r}, which is a preset of the method's own; choose another name")
    path = preset_path(out)
    if not out.endswith(ENDING):
        files.make_folder(path.parent, within=files.cache_dir())
    files.check_writable(path, overwrite=overwrite)
    plan = prepare(session, request, hardware)
    with files.lock(path), session.progress() as report:
        backbone = load_model(request.backbone, hardware, report)
        from hiper.analysis import tune as search
        from hiper.options import fit_key

        tried = path.with_name(f"{path.name}.tries")
        job = fit_key(
            plan.method.name,
            backbone.model_key(),
            picture=plan.subject.sha256,
            caption=plan.subject.caption,
            options=plan.options,
        )

        def keep(tries: Mapping[str, float]) -> None:
            report("fits tried", len(tries), 0)
            record = {"job": job, "tries": dict(tries)}
            files.atomic_write(tried, json.dumps(record).encode(), overwrite=True)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HiperWarning)  # a bad try is what a search is for
            found = search(
                backbone,
                plan.subject,
                evaluations=evaluations,
                seed=plan.options.seed,
                known=_known(tried, job),
                on_try=keep,
                should_stop=session.stop.requested,
            )
        found.save(path, overwrite=overwrite)
        tried.unlink(missing_ok=True)
    lines = [f"{path}: {', '.join(f'{name} {value}' for name, value in found.options.items())}"]
    session.console.result({"preset": str(path), **vars(found)}, [*lines, f"hiper fit ... --preset {out}"])


def _known(path: Path, job: Mapping[str, object]) -> dict[str, float]:
    """Return the tries of a stopped search for the same picture on the same model."""
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    is_same = isinstance(record, dict) and record.get("job") == job
    return record["tries"] if is_same and conforms(record.get("tries"), Mapping[str, float]) else {}
