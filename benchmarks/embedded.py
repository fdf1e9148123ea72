"""Seconds and peak memory of a fit and an edit on the embedded model.

    python benchmarks/embedded.py [--rounds 3] [--out benchmarks/embedded.json]

Each preset is fitted `rounds` times on an unseen identity and edited once with four seeds; medians are reported.
Peak memory is the process's resident set, so it is that of the whole run.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import hiper
from hiper.analysis import demo_scene
from hiper.critters import bare_caption, render


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    """Median wall-clock seconds of `work` over `rounds` calls."""
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return round(statistics.median(seconds), 2)


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    backbone = hiper.load_backbone("critters")
    report: dict[str, object] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_seconds": round(time.perf_counter() - begun, 2),
    }
    scene = demo_scene(0)
    subject = hiper.Subject.from_image(render(scene), caption=bare_caption(scene))
    prompt = bare_caption(scene.edited(pose="sitting"))
    for preset in ("default", "paper"):
        artifact = hiper.fit(backbone, subject, preset=preset)
        fit_seconds = median_seconds(partial(hiper.fit, backbone, subject, preset=preset), arguments.rounds)
        edit = partial(hiper.edit, backbone, artifact, prompt, seeds=range(4))
        edit_seconds = median_seconds(edit, arguments.rounds)
        report[preset] = {
            "fit_seconds": fit_seconds,
            "edit_seconds_4_images": edit_seconds,
            "artifact_bytes": len(artifact.to_bytes()),
        }
    report["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
