"""How much sooner several subjects are fitted together than one by one, on the embedded model.

    python benchmarks/fit_together.py [--steps 40] [--rounds 2] [--out benchmarks/fit_together.json]

Both ways take turns, so that whatever else the computer does falls on both, and the least of the rounds counts.
Processor time stands beside elapsed time: it tells the work, also on a computer that is busy with other things.
The loss is looked at before and after each fit, one subject at a time, which weighs more in so short a fit than
in a whole one: there the speed-up is a little larger. The default preset is whole in 40 steps.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import hiper
from hiper.analysis import demo_scene
from hiper.artifacts import Artifact
from hiper.critters import bare_caption, render
from hiper.methods import FitInput, fit_all, get_method


def requests(preset: str, count: int, steps: int) -> list[FitInput]:
    """Different subjects with equal options but their seeds."""
    method = get_method("hiper")
    scenes = [demo_scene(i) for i in range(count)]
    return [
        FitInput(
            subject=hiper.Subject.from_image(render(scene), caption=bare_caption(scene)),
            options=method.options(preset, steps=steps, seed=i),
        )
        for i, scene in enumerate(scenes)
    ]


def tails(backbone: hiper.Backbone, some: Sequence[FitInput], slots: int) -> list[torch.Tensor]:
    """Fit in groups of `slots`."""
    results = [
        outcome.result
        for i in range(0, len(some), slots)
        for outcome in fit_all(get_method("hiper"), backbone, some[i : i + slots], slots=slots)
    ]
    return [result.tensors["tail"] for result in results if isinstance(result, Artifact)]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a way of fitting made, and the elapsed and processor seconds it took."""

    tails: Sequence[torch.Tensor]
    seconds: float
    processor_seconds: float


def measured(work: partial[list[torch.Tensor]]) -> Measured:
    """Do it once."""
    begun, used = time.perf_counter(), time.process_time()
    made = work()
    return Measured(
        tails=made, seconds=time.perf_counter() - begun, processor_seconds=time.process_time() - used
    )


def compared(backbone: hiper.Backbone, preset: str, slots: int, steps: int, rounds: int) -> dict[str, float]:
    """Seconds per subject one by one and together, and how far the tails are apart in the end."""
    some = requests(preset, slots, steps)
    ways = {"alone": partial(tails, backbone, some, 1), "together": partial(tails, backbone, some, slots)}
    runs = [{name: measured(work) for name, work in ways.items()} for _ in range(rounds)]
    least = {
        f"{way}_{name}": min(getattr(run[way], name) for run in runs) / slots
        for way in ways
        for name in ("seconds", "processor_seconds")
    }
    pairs = zip(runs[0]["together"].tails, runs[0]["alone"].tails, strict=True)
    apart = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    return {
        **{name: round(value, 3) for name, value in least.items()},
        "speed_up": round(least["alone_seconds"] / least["together_seconds"], 2),
        "processor_speed_up": round(
            least["alone_processor_seconds"] / least["together_processor_seconds"], 2
        ),
        "largest_relative_difference": float(f"{apart:.1e}"),
    }


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", hiper.HiperWarning)
    backbone = hiper.load_backbone("critters")
    report = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "steps": arguments.steps,
        **{
            f"{preset}, {slots} subjects": compared(
                backbone, preset, slots, arguments.steps, arguments.rounds
            )
            for preset in ("paper", "default")
            for slots in (4, 8)
        },
    }
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
