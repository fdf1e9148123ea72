"""How much sooner several subjects are fitted together than one by one, on the embedded model.

    python -m benchmarks.fit_together [--steps 40] [--rounds 2] [--out benchmarks/fit_together.json]

Both ways take turns, so that whatever else the computer does falls on both, and the least of the rounds counts.
Processor time stands beside elapsed time: it tells the work, also on a computer that is busy with other things.
The loss is looked at before and after each fit, one subject at a time, which weighs more in so short a fit than
in a whole one: there the speed-up is a little larger. The default preset is whole in 40 steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import torch
from benchmarks.common import animal, finish, options, timed

import hiper
from hiper.artifacts import Artifact
from hiper.methods import FitInput, fit_all, get_method


def requests(preset: str, count: int, steps: int) -> list[FitInput]:
    """Different subjects with equal options but their seeds."""
    method = get_method("hiper")
    return [
        FitInput(subject=animal(i), options=method.options(preset, num_train_steps=steps, seed=i))
        for i in range(count)
    ]


def tails(backbone: hiper.Backbone, some: Sequence[FitInput], slots: int) -> list[torch.Tensor]:
    """Fit in groups of `slots`."""
    results = [
        outcome.result
        for i in range(0, len(some), slots)
        for outcome in fit_all(get_method("hiper"), backbone, some[i : i + slots], slots=slots)
    ]
    return [result.tensors["tail"] for result in results if isinstance(result, Artifact)]


def compared(backbone: hiper.Backbone, preset: str, slots: int, steps: int, rounds: int) -> dict[str, float]:
    """Seconds per subject one by one and together, and how far the tails are apart in the end."""
    some = requests(preset, slots, steps)
    ways = {"alone": partial(tails, backbone, some, 1), "together": partial(tails, backbone, some, slots)}
    made = {way: work() for way, work in ways.items()}
    runs = [{way: timed(work) for way, work in ways.items()} for _ in range(rounds)]
    least = {
        f"{way}_{name}": min(run[way][name] for run in runs) / slots
        for way in ways
        for name in ("seconds", "processor_seconds")
    }
    pairs = zip(made["together"], made["alone"], strict=True)
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
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
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
    finish(arguments.out, report)


if __name__ == "__main__":
    main()
