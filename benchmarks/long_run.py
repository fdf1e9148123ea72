"""Five hundred fits and two thousand edits in one process: its memory, and whether the last results are the first.

    python benchmarks/long_run.py [--backbone critters] [--fits 500] [--out FILE.json] [--figure FILE.svg]

Short fits of `SUBJECTS` animals in turn, four edits after each; `--backbone` as everywhere. All that the first turn
gave (tails and pixels) is compared with what every later turn gives; resident memory is read after each fit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
import warnings
from pathlib import Path

import torch

import hiper
from hiper.analysis import demo_scene
from hiper.backbones import Backbone
from hiper.critters import bare_caption, render
from hiper.errors import HiperWarning

SUBJECTS = 10
EDITS_PER_FIT = 4
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb() -> float:
    """Megabytes of this process that are in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def one_turn(backbone: Backbone, number: int) -> str:
    """Fit animal `number` and edit it four times; a SHA-256 of all that came out."""
    scene = demo_scene(number)
    subject = hiper.Subject.from_image(render(scene), caption=bare_caption(scene))
    artifact = hiper.fit(backbone, subject, steps=2)
    digest = hashlib.sha256(artifact.tensors["tail"].numpy().tobytes())
    for seed in range(EDITS_PER_FIT):
        prompt = bare_caption(scene.edited(pose="sitting"))
        (image,) = hiper.edit(backbone, artifact, prompt, seeds=[seed], steps=2).images
        digest.update(image.tobytes())
    return digest.hexdigest()


def slope(values: list[float]) -> float:
    """Least-squares growth per 100 values."""
    return 100 * statistics.linear_regression(range(len(values)), values).slope


def figure(memory: list[float]) -> str:
    """Resident memory over fits, as an SVG drawing."""
    width, height, left, bottom = 640, 220, 56, 36
    top = 1.25 * max(memory)

    def y(mb: float) -> float:
        return (height - bottom) * (1 - mb / top)

    step = (width - left - 8) / max(1, len(memory) - 1)
    points = " ".join(f"{left + i * step:.1f},{y(mb):.1f}" for i, mb in enumerate(memory))
    marks = [round(max(memory) * part, -1) for part in (0, 0.5, 1)]
    ticks = "".join(
        f'<text x="{left - 6}" y="{max(12, y(mb) + 4):.0f}" text-anchor="end">{mb:.0f}</text>'
        f'<line x1="{left}" x2="{width - 8}" y1="{y(mb):.1f}" y2="{y(mb):.1f}" stroke="#ccc"/>'
        for mb in marks
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        ' font-family="sans-serif" font-size="12" fill="#333">'
        f"<title>Resident memory in MB after each of {len(memory)} fits, four edits after each</title>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>{ticks}'
        f'<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="1.5"/>'
        f'<text x="{left}" y="{height - 10}">1</text>'
        f'<text x="{width - 8}" y="{height - 10}" text-anchor="end">{len(memory)} fits</text>'
        f'<text x="{width // 2}" y="{height - 10}" text-anchor="middle">resident memory, MB</text></svg>\n'
    )


def main() -> None:
    """Run, print and write JSON and figure where asked; exit status 1 when a later turn differs from the first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="critters")
    parser.add_argument("--fits", type=int, default=500)
    parser.add_argument("--out", type=Path)
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
    if arguments.out:
        arguments.out.write_text(json.dumps(report) + "\n")
    if arguments.figure:
        arguments.figure.write_text(figure(memory))
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
