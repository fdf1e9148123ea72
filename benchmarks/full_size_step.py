"""One fit step at the full size of Stable Diffusion 1.4 (random weights, 512 x 512), frozen against unfrozen.

    python -m benchmarks.full_size_step [--steps 3] [--dtypes float32 bfloat16] [--out benchmarks/full_size_step.json]

The unfrozen step is what the method's reference procedure does: the denoiser's weights ask for gradients that nobody
uses. Both run in one process, in turn, so that the ratio means something; time and memory depend on shapes alone, so
random weights serve. Needs about 14 GB of memory and no download.
"""

from __future__ import annotations

import platform
import statistics

import torch
from benchmarks.common import finish, options, timed
from benchmarks.cost_model import SIDES, SIZES, built, count, fit_step

SIZE, SIDE = SIZES["sd14"], SIDES["sd14"]


def measure(dtype: torch.dtype, steps: int) -> dict[str, float]:
    """Median seconds of a step, frozen and unfrozen in turn, after one of each that is counted."""
    unet = built(SIZE, dtype, frozen=True)
    step = fit_step(SIZE, unet, SIDE, batch=1)
    seconds: dict[str, list[float]] = {"frozen": [], "unfrozen": []}
    found: dict[str, float] = {}
    for round_number in range(steps + 1):
        for how, taken in seconds.items():
            unet.requires_grad_(how == "unfrozen")
            if round_number == 0:
                found[f"{how}_tflop"] = round(count(step).work().flops / 1e12, 3)
            else:
                taken.append(timed(step)["seconds"])
            unet.zero_grad(set_to_none=True)
    medians = {f"{how}_seconds": round(statistics.median(taken), 3) for how, taken in seconds.items()}
    return {**medians, **found}


def main() -> None:
    """Measure each dtype and print ratios against the unfrozen float32 step."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    given = parser.parse_args()
    report: dict[str, object] = {
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    base = 0.0
    for name in given.dtypes:
        row = measure(getattr(torch, name), given.steps)
        base = base or row["unfrozen_seconds"]
        row["ratio_to_first_unfrozen"] = round(row["frozen_seconds"] / base, 3)
        row["ratio_to_own_unfrozen"] = round(row["frozen_seconds"] / row["unfrozen_seconds"], 3)
        report[name] = row
        print(name, row, flush=True)
    finish(given.out, report)


if __name__ == "__main__":
    main()
