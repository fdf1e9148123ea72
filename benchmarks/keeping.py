"""Edits that keep what the sentence does not change, beside edits from noise, on the embedded model.

    python -m benchmarks.keeping --folder DIR [--subjects 100] [--heavy 100] [--seed 77] [--seeds 2]
                                 [--report] [--out benchmarks/keeping.json]

Subjects are the first of the test split of that seed; arms whose fits are heavy see `--heavy` of them. Differences are
from HiPer drawing anew, over the cells that both have, with 95 % intervals over subjects. The same command goes on
where it was stopped; with --report, only what is there is counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import options, write
from benchmarks.methods_table import scored
from benchmarks.tables import EDITS

import hiper
from hiper.bench import (
    BenchReport,
    SuiteSpec,
    build_report,
    difference,
    gap_closed,
    mean,
    run,
)
from hiper.errors import HiperWarning

ANEW, KEPT, NO_TAIL = "hiper,keep_source=0.0", "hiper", "none,keep_source=0.5"
LIGHT = ("none", "truth", "source", ANEW, KEPT, NO_TAIL)
DIAL = ("hiper,keep_source=0.25", "hiper,keep_source=0.75")
HEAVY = ("textual-inversion", "dreambooth", "hiper:published")
METRICS = (
    "edit_success",
    "identity",
    "colour_distance",
    "picture_distance",
    "inside_distance",
    "outside_distance",
    "structure",
    "pattern",
    "eyes",
)


def figures(report: BenchReport, arm: str, edit: str | None) -> dict[str, Any]:
    """Means of an arm, and its differences from HiPer drawing anew."""
    found: dict[str, Any] = {}
    for metric in METRICS:
        own = mean(scored(report, metric, arm, edit=edit))
        found[metric] = {"mean": own and asdict(own)}
        if arm != ANEW:
            both = difference(scored(report, metric, arm, ANEW, edit=edit))
            found[metric]["minus_anew"] = both and asdict(both)
    return found


def row(report: BenchReport, arm: str) -> dict[str, Any]:
    """Return everything of one arm."""
    closed = gap_closed(scored(report, "colour_distance", "none", arm, "truth"), "lower")
    return {
        "arm": arm,
        "scores": figures(report, arm, None),
        "edits": {edit: figures(report, arm, edit) for edit in EDITS},
        "gap_closed": closed and asdict(closed),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, score, and write JSON where asked."""
    parser = options(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--heavy", type=int, default=100)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="draw nothing")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore", HiperWarning)
    spec = SuiteSpec(name="critters", split="test", seed=given.seed)
    for limit, arms in ((given.subjects, LIGHT), (given.subjects, DIAL), (given.heavy, HEAVY)):
        if not given.report and limit:
            run(spec, "critters", arms, given.folder, seeds=given.seeds, limit=limit)
    report = build_report(given.folder)
    weights = hiper.load_backbone("critters").weights_sha256()
    facts = {name: getattr(given, name) for name in ("seed", "subjects", "heavy", "seeds")}
    found = [row(report, arm) for arm in (*LIGHT, *DIAL, *HEAVY) if report.cells.get(arm)]
    write(given.out, {"split": "test", **facts, "weights": weights, "arms": found})


if __name__ == "__main__":
    main()
