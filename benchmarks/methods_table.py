"""Every method of this package on the same subjects, edits, seeds and sampler: what it draws, and what it costs.

    python -m benchmarks.methods_table --folder DIR [--subjects 100] [--heavy 50] [--per-sentence 50] [--seeds 2]
                                       [--jobs 2] [--out benchmarks/methods_table.json]
                                       [--sheet docs/images/methods.webp]

Subjects are the first of the test split, whose order is a random draw's. Methods whose fits are heavy see `--heavy` of
them, those that fit every sentence `--per-sentence`, the others all. Differences are from HiPer's default preset and
from the paper's, over the cells that both have, with 95 % intervals over subjects. `identity` is the share of the five
attributes of a subject that a picture has right. What a method costs is measured on one subject with nothing
else drawn by this program: processor seconds of a fit and of four pictures, and what was counted in them. Everything
lies in DIR, the costs in DIR/costs.json, and the same command goes on where it was stopped. The sheet shows the first
eight subjects, one edit of each.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import options, timed, write
from benchmarks.critters_pictures import grid
from benchmarks.remedies import DRAWN, fit_missing
from benchmarks.tables import BASELINES, OTHER_METHODS
from PIL import Image

import hiper
from hiper.analysis import Work, counting
from hiper.backbones import Backbone
from hiper.bench import (
    IDENTITY,
    Arm,
    BenchReport,
    Case,
    CellResult,
    Suite,
    SuiteSpec,
    build_report,
    common,
    difference,
    gap_closed,
    mean,
    open_suite,
    parse_arm,
    run,
)
from hiper.engines import EngineSettings
from hiper.errors import HiperWarning
from hiper.files import make_folder
from hiper.methods import get_method

HIPER = "hiper"
TRIED = "hiper,learning_rate=0.062,strength=0.67"
"""The best of as many tries as every other method had, by colour distance (tune_methods.json)."""
CAPTION = "hiper,init=caption,learning_rate=0.15,t_min=0.5"
PAPER = parse_arm(f"hiper:paper,{DRAWN}").text
REFERENCES = (HIPER, CAPTION, PAPER)
"""Arms that all others are compared with; that from the second one is in the JSON alone."""
LIGHT = ("none", "truth", "source", HIPER, "sdedit", "ddim-inversion")
HEAVY = (TRIED, CAPTION, PAPER, "textual-inversion", "dreambooth", "dreambooth-lora", "null-text")
METRICS = ("edit_success", "preservation", "source_leak", "colour_distance", "picture_distance", *IDENTITY)
COUNTS = ("steps", "weight_steps")
"""Options that say how many steps of a kind a fit makes; every other part of it is made once."""
PICTURES = 4
LABELS = {
    **BASELINES,
    HIPER: "HiPer",
    TRIED: "HiPer, best of eight tries",
    CAPTION: "HiPer from the caption",
    PAPER: "HiPer, the paper's fit",
    **OTHER_METHODS,
}
"""What arms are called, in the order of the tables and of a row of the sheet."""
SHEET_ROWS = 8


def counted(work: Callable[[], object]) -> Work:
    """Do it once and count."""
    with counting() as counter:
        work()
    return counter.work()


def fit_of(arm: Arm, backbone: Backbone, case: Case, **counts: int) -> Callable[[], hiper.Artifact]:
    """Return an arm's fit of a case, with some of its numbers of steps set."""
    method = get_method(arm.method)
    target: dict[str, Any] = {"target": case.target_caption} if method.per_sentence else {}
    subject = hiper.Subject.from_image(case.source, caption=case.source_caption)
    options = method.options(arm.preset, **{**arm.changes, **counts, **target})
    return partial(method.fit, backbone, subject, options)


def fit_work(arm: Arm, backbone: Backbone, case: Case) -> tuple[int, int]:
    """FLOPs of a fit and its most bytes: from fits of one and two steps of a kind, for steps are alike."""
    steps = {name: int(arm.options[name]) for name in COUNTS if name in arm.options}
    once = dict.fromkeys(steps, 1)
    work = counted(fit_of(arm, backbone, case, **once))
    flops = work.flops
    for name, count in steps.items():
        more = counted(fit_of(arm, backbone, case, **{**once, name: 2}))
        flops += (count - 1) * (more.flops - work.flops)
    return flops, work.peak


def cost(arm: Arm, backbone: Backbone, case: Case) -> dict[str, Any]:
    """What a fit and an edit of four pictures take on one subject."""
    made: list[hiper.Artifact] = []
    fitting = timed(lambda: made.append(fit_of(arm, backbone, case)()))
    edit = partial(hiper.edit, backbone, made[0], case.target_caption, seeds=range(PICTURES), keep=0)
    editing = timed(edit)
    fit_flops, fit_peak = fit_work(arm, backbone, case)
    drawn = counted(edit)
    return {
        "fit_seconds": round(fitting["processor_seconds"], 2),
        "edit_seconds": round(editing["processor_seconds"], 2),
        "fit_flops": fit_flops,
        "edit_flops": drawn.flops,
        "fit_peak_bytes": fit_peak,
        "edit_peak_bytes": drawn.peak,
        "artifact_bytes": len(made[0].to_bytes()),
        "per_sentence": get_method(arm.method).per_sentence,
        "threads": torch.get_num_threads(),
    }


def costs(arms: Sequence[Arm], backbone: Backbone, suite: Suite, path: Path) -> dict[str, Any]:
    """Measure the arms that are not written down in `path` yet."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    case = suite.cases(suite.subjects()[0])[0]
    fit_of(parse_arm(HIPER), backbone, case, steps=2)()  # the first call of everything is slow
    for arm in arms:
        if arm.baseline is None and arm.text not in found:
            found[arm.text] = cost(arm, backbone, case)
            print(json.dumps({"arm": arm.text, **found[arm.text]}), flush=True)
            write(path, found)
    return found


def identity(cell: CellResult) -> float | None:
    """Share of the attributes that are right, of those that can be read; None where none can."""
    known = [value for name in IDENTITY if (value := cell.scores.get(name)) is not None]
    return sum(known) / len(known) if known else None


def scored(
    report: BenchReport, metric: str, *arms: str, edit: str | None = None
) -> dict[str, list[tuple[float, ...]]]:
    """Subject -> the scores of the arms side by side, of the cells that all have, of one kind of edit or of all."""

    def score(cell: CellResult) -> float | None:
        if edit not in (None, cell.edit):
            return None
        return identity(cell) if metric == "identity" else cell.scores.get(metric)

    return common([report.cells[arm] for arm in arms], score)


def rows(report: BenchReport, arms: Sequence[str], spent: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per arm: what it cost, its means, its differences from HiPer's, and the gap it closes."""
    found = []
    for arm in arms:
        figures: dict[str, Any] = {"arm": arm, "cost": spent.get(arm), "scores": {}}
        for metric in ("identity", *METRICS):
            own = mean(scored(report, metric, arm))
            less = {each: difference(scored(report, metric, arm, each)) for each in REFERENCES if each != arm}
            figures["scores"][metric] = {
                "mean": own and asdict(own),
                "minus": {each: asdict(both) for each, both in less.items() if both},
            }
        closed = gap_closed(scored(report, "colour_distance", "none", arm, "truth"), "lower")
        figures["gap_closed"] = closed and asdict(closed)
        found.append(figures)
    return found


def sheet(report: BenchReport, folder: Path) -> Image.Image:
    """One row per subject, from the first on, each with the next edit; the sentence stands below the true answer."""
    run, pictures, labels = report.run, [], []
    for number, (subject, edits) in enumerate([*run.subjects.items()][:SHEET_ROWS]):
        edit, seed = edits[number % len(edits)], run.identity.seed
        for arm, label in LABELS.items():
            picture = run.paths(folder, arm, subject)[edit, seed].with_suffix(".png")
            pictures.append(Image.open(picture).convert("RGB"))
            labels.append(report.cells[arm][subject, edit, seed].prompt if arm == "truth" else label)
    return grid(pictures, len(LABELS), labels)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the costs, draw, score; print the tables, and write JSON where asked."""
    parser = options(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--split", choices=("tuning", "test"), default="test")
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--heavy", type=int, default=50)
    parser.add_argument("--per-sentence", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore", HiperWarning)
    spec = SuiteSpec(name="critters", split=given.split)
    suite, backbone = open_suite(spec), hiper.load_backbone("critters")
    spent = costs(
        [parse_arm(each) for each in LABELS], backbone, suite, make_folder(given.folder) / "costs.json"
    )
    engine = EngineSettings(workers=given.jobs)
    fit_missing(backbone, suite, [parse_arm(PAPER)], suite.subjects()[: given.heavy], given.folder)
    for seen, some in (
        (given.per_sentence, [*LABELS]),
        (given.heavy, [*LIGHT, *HEAVY]),
        (given.subjects, LIGHT),
    ):
        run(spec, "critters", some, given.folder, seeds=given.seeds, limit=seen, engine=engine)
        print(f"{seen} subjects by {len(some)} arms", flush=True)
    report = build_report(given.folder)
    found = rows(report, [*LABELS], spent)
    facts = {name: getattr(given, name) for name in ("split", "subjects", "heavy", "per_sentence", "seeds")}
    write(given.out, {**facts, "weights": backbone.weights_sha256(), "arms": found})
    if given.sheet:
        sheet(report, given.folder).save(given.sheet)


if __name__ == "__main__":
    main()
