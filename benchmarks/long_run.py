"""Five hundred fits and two thousand edits in one process: its memory, and whether the last results are the first.

    python -m benchmarks.long_run [--backbone critters] [--fits 500] [--out FILE.json] [--figure FILE.svg]

Short fits of `SUBJECTS` animals in turn, four edits after each; `--backbone` as everywhere. All that the first turn
gave (tails and pixels) is compared with what every later turn gives; resident memory is read after each fit.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
import warnings
from pathlib import Path

import torch
from benchmarks.common import animal, options, sitting, write

import hiper
from hiper.backbones import Backbone
from hiper.errors import HiperWarning
from hiper.html import COLOURS, GRID, Axis, drawing, line, text

SUBJECTS = 10
EDITS_PER_FIT = 4
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb() -> float:
    """Megabytes of this process that are in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def one_turn(backbone: Backbone, number: int) -> str:
    """Fit animal `number` and edit it four times; a SHA-256 of all that came out."""
    subject = animal(number)
    artifact = hiper.fit(backbone, subject, num_train_steps=2)
    digest = hashlib.sha256(artifact.tensors["tail"].numpy().tobytes())
    for seed in range(EDITS_PER_FIT):
        (image,) = hiper.edit(backbone, artifact, sitting(number), seeds=[seed], num_inference_steps=2).images
        digest.update(image.tobytes())
    return digest.hexdigest()


def slope(values: list[float]) -> float:
    """Least-squares growth per 100 values."""
    return 100 * statistics.linear_regression(range(len(values)), values).slope


def figure(memory: list[float]) -> str:
    """Resident memory over fits, as an SVG drawing."""
    left, right, top, bottom = 56, 632, 12, 184
    across = Axis(low=1, high=max(2, len(memory)), start=left, end=right)
    up = Axis(low=0, high=1.25 * max(memory), start=bottom, end=top)
    shapes = []
    for tick in up.ticks():
        shapes.append(line([(left, up.at(tick)), (right, up.at(tick))], colour=GRID, width=1))
        shapes.append(text(left - 6, up.at(tick) + 4, f"{tick:.0f}", anchor="end"))
    shapes.append(line([(across.at(i), up.at(mb)) for i, mb in enumerate(memory, 1)], colour=COLOURS[0]))
    shapes.append(
        text((left + right) / 2, bottom + 26, f"resident memory, MB, after each of {len(memory)} fits")
    )
    return drawing(right + 8, bottom + 36, shapes, "Resident memory after each fit, four edits after each")


def main() -> None:
    """Run, print and write JSON and figure where asked; exit status 1 when a later turn differs from the first."""
    parser = options(__doc__)
    parser.add_argument("--backbone", default="critters")
    parser.add_argument("--fits", type=int, default=500)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", HiperWarning)  # two steps gain little, and say so each time
    backbone = hiper.load_backbone(arguments.backbone, device="cpu")
    begun = time.perf_counter()
    memory: list[float] = []
    digests: list[str] = []
    for turn in range(arguments.fits):
        digests.append(one_turn(backbone, turn % SUBJECTS))
        memory.append(round(resident_mb(), 1))
    differing = sum(digest != digests[i % SUBJECTS] for i, digest in enumerate(digests))
    steady = memory[len(memory) // 5 :]  # allocators and kernels have what they need by then
    report = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "fits": arguments.fits,
        "edits": arguments.fits * EDITS_PER_FIT,
        "seconds": round(time.perf_counter() - begun),
        "results_that_differ_from_the_first": differing,
        "memory_mb_first_settled_last": [memory[0], steady[0], memory[-1]],
        "memory_mb_peak": max(memory),
        "growth_mb_per_100_fits_once_settled": round(slope(steady), 2),
        "memory_mb": memory,
    }
    print(json.dumps({name: value for name, value in report.items() if name != "memory_mb"}, indent=2))
    write(arguments.out, report)
    if arguments.figure:
        arguments.figure.write_text(figure(memory))
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
