"""Seconds and peak memory of a fit and an edit on the embedded model.

    python -m benchmarks.embedded [--rounds 3] [--out benchmarks/embedded.json]

Each preset is fitted `rounds` times on an unseen identity and edited once with four seeds; medians are reported.
Peak memory is the process's resident set, so it is that of the whole run.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from benchmarks.common import animal, finish, options, sitting, timed

import hiper


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    """Median wall-clock seconds of `work` over `rounds` calls."""
    return round(statistics.median(timed(work)["seconds"] for _ in range(rounds)), 2)


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    begun = time.perf_counter()
    backbone = hiper.load_backbone("critters")
    report: dict[str, object] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_seconds": round(time.perf_counter() - begun, 2),
    }
    subject = animal()
    for preset in ("default", "paper"):
        artifact = hiper.fit(backbone, subject, preset=preset)
        fit = partial(hiper.fit, backbone, subject, preset=preset)
        edit = partial(hiper.edit, backbone, artifact, sitting(), seeds=range(4), keep=0)
        report[preset] = {
            "fit_seconds": median_seconds(fit, given.rounds),
            "edit_seconds_4_images": median_seconds(edit, given.rounds),
            "artifact_bytes": len(artifact.to_bytes()),
        }
    report["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    finish(given.out, report)


if __name__ == "__main__":
    main()
