"""What an edit that keeps the rest costs beside a new picture, on the embedded model.

    python -m benchmarks.keeping_cost [--rounds 7] [--out benchmarks/keeping_cost.json]

Each round draws a new picture and keeps the source in turn, by one prompt and one seed, by one prompt and four seeds,
and by four prompts. Processor seconds of one thread; the ratio is the median over rounds of each round's own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from benchmarks.common import animal, finish, options, timed

import hiper
from hiper.analysis import EDITS, counting, demo_scene
from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.critters import bare_caption

KEEPS = (0.0, 0.5)


def drawing(
    backbone: Backbone, artifact: Artifact, prompts: Sequence[str], images: int, keep: float
) -> Callable[[], object]:
    """Return what draws `images` pictures by each prompt."""
    return lambda: [hiper.edit(backbone, artifact, each, seeds=range(images), keep=keep) for each in prompts]


def calls(backbone: Backbone, work: Callable[[], object]) -> dict[str, float]:
    """Count the denoiser's calls, and the FLOPs of everything."""
    shapes: list[int] = []
    hook = backbone.denoiser.register_forward_pre_hook(lambda _, given: shapes.append(len(given[0])))
    with counting() as counter:
        work()
    hook.remove()
    return {"calls": len(shapes), "pictures_denoised": sum(shapes), "gflop": counter.work().flops / 1e9}


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    backbone, scene = hiper.load_backbone("critters"), demo_scene(0)
    artifact = hiper.fit(backbone, animal())
    prompts = [bare_caption(scene.edited(**changes)) for _, changes in EDITS]
    cases = {"one picture": (prompts[:1], 1), "four seeds": (prompts[:1], 4), "four prompts": (prompts, 1)}
    record: dict[str, Any] = {"torch": torch.__version__, "rounds": given.rounds, "cases": {}}
    for name, (some, images) in cases.items():
        works = {keep: drawing(backbone, artifact, some, images, keep) for keep in KEEPS}
        counted = {keep: calls(backbone, work) for keep, work in works.items()}
        seconds = [[timed(works[keep])["processor_seconds"] for keep in KEEPS] for _ in range(given.rounds)]
        ratios = [kept / anew for anew, kept in seconds]
        record["cases"][name] = {
            "seconds": [statistics.median(each) for each in zip(*seconds, strict=True)],
            "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
            "counted": [counted[keep] for keep in KEEPS],
        }
    finish(given.out, record)


if __name__ == "__main__":
    main()
