"""How time and memory grow: with the picture, the learnt token embeddings, and what goes through the denoiser.

    python -m benchmarks.growth [--rounds 3] [--out benchmarks/growth.json] [--figure docs/images/growth.svg]

On the embedded model real steps are made; their processor time counts, the least of `rounds`, so that a busy computer
matters little, and the most bytes of new tensors alive at once (`hiper.analysis.counting`).
At the size of SD 1.4 the same is counted in FLOPs and bytes under fake tensors. An exponent is the slope of a line
through the logarithms: 1 is twice the cost for twice the size. The figures of `last` are those between the two
largest sizes alone, where what grows slowly no longer hides what grows fast.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from benchmarks import cost_model
from benchmarks.common import animal, finish, options, timed
from torch._subclasses.fake_tensor import FakeTensorMode

import hiper
from hiper.backbones import Backbone
from hiper.conditioning import expanded
from hiper.errors import HiperWarning
from hiper.html import COLOURS, FAINT, GRID, Axis, dot, drawing, line, text
from hiper.methods import HiPer, losses_together
from hiper.training import TrainingTask

SIDES, ROWS, LEVELS, PICTURES, SUBJECTS = (
    (32, 64, 96, 128),
    (1, 5, 20, 64),
    (1, 2, 4, 8),
    (1, 2, 4, 8),
    (1, 2, 4, 8),
)
FULL_SIDES = (256, 512, 768, 1024)
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 250.0, 260.0, 45.0, 40.0, 45.0


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Costs over sizes: `time` in processor seconds or FLOPs, `memory` in bytes."""

    what: str
    model: str
    sizes: tuple[int, ...]
    time: tuple[float, ...]
    memory: tuple[float, ...]

    def as_record(self) -> dict[str, object]:
        """Return all of it, with its exponents."""
        exponents = {
            name: {"all": exponent(self.sizes, costs), "last": exponent(self.sizes[-2:], costs[-2:])}
            for name, costs in (("time", self.time), ("memory", self.memory))
        }
        return {**asdict(self), "exponents": exponents}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of the line through the logarithms."""
    logs = [[math.log(value) for value in values] for values in (sizes, costs)]
    return round(statistics.linear_regression(*logs).slope, 2)


def prepared(backbone: Backbone, *, rows: int = 5, levels: int = 1, number: int = 0) -> TrainingTask:
    """Return a fit before its first step; token embeddings are appended, so that every one of them counts."""
    subject, method = animal(number), HiPer()
    options = method.options("paper", tail=rows, batch=levels, placement="append", seed=number)
    return method.prepare(backbone, subject, method.resolve(options, backbone, subject))


def measured(step: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Least processor seconds of a call, and the most bytes alive in one."""
    peak = cost_model.count(step).work().peak
    return min(timed(step)["processor_seconds"] for _ in range(rounds)), peak


def fit_step(tasks: Sequence[TrainingTask]) -> Callable[[], object]:
    """Return a step of all these fits in one call of the denoiser."""

    def step() -> None:
        torch.autograd.backward(torch.stack(losses_together(tasks, len(tasks))).sum())

    return step


def drawing_step(backbone: Backbone, pictures: int) -> Callable[[], object]:
    """Return a guided denoising step of so many pictures."""
    conditioning = expanded(backbone.encode("a standing dog"), 2 * pictures)
    noise = torch.randn(2 * pictures, *backbone.latent_shape)

    def step() -> None:
        with torch.no_grad():
            backbone.predict(noise, torch.full((2 * pictures,), 500), conditioning)

    return step


def curve(what: str, model: str, sizes: Sequence[int], cost: Callable[[int], tuple[float, float]]) -> Curve:
    """Find the cost at every size."""
    costs = [cost(size) for size in sizes]
    print(what, model, *sizes, costs, flush=True)
    return Curve(
        what=what,
        model=model,
        sizes=tuple(sizes),
        time=tuple(each[0] for each in costs),
        memory=tuple(each[1] for each in costs),
    )


def embedded(rounds: int) -> Iterator[Curve]:
    """Measure on the embedded model."""
    backbone = hiper.load_backbone("critters", device="cpu")
    native = backbone.resolution

    def cost(tasks: Sequence[TrainingTask]) -> tuple[float, float]:
        with backbone.training_mode():
            return measured(fit_step(tasks), rounds)

    def by_side(side: int) -> tuple[float, float]:
        backbone.resize(side)
        return cost([prepared(backbone)])

    yield curve("picture's side, pixels", "critters", SIDES, by_side)
    backbone.resize(native)
    yield curve("learnt token embeddings", "critters", ROWS, lambda n: cost([prepared(backbone, rows=n)]))
    yield curve("timesteps per step", "critters", LEVELS, lambda n: cost([prepared(backbone, levels=n)]))
    yield curve(
        "subjects per call",
        "critters",
        SUBJECTS,
        lambda n: cost([prepared(backbone, number=i) for i in range(n)]),
    )
    yield curve(
        "pictures drawn at a time",
        "critters",
        PICTURES,
        lambda n: measured(drawing_step(backbone, n), rounds),
    )


def full_size() -> Iterator[Curve]:
    """Count at the size of SD 1.4, frozen, bfloat16."""
    size = cost_model.SIZES["sd14"]
    with FakeTensorMode():
        model = cost_model.built(size, torch.bfloat16, frozen=True)

        def step(side: int = 64, rows: int = 5, batch: int = 1) -> tuple[float, float]:
            work = cost_model.count(cost_model.fit_step(size, model, side, batch, rows, appended=True)).work()
            return work.flops, work.peak

        def forward(pictures: int) -> tuple[float, float]:
            work = cost_model.forward(size, model, 64, 2 * pictures).work()
            return work.flops, work.peak

        yield curve("picture's side, pixels", "sd14", FULL_SIDES, lambda side: step(side=side // 8))
        yield curve("learnt token embeddings", "sd14", ROWS, lambda n: step(rows=n))
        yield curve("timesteps per step", "sd14", LEVELS, lambda n: step(batch=n))
        yield curve("pictures drawn at a time", "sd14", PICTURES, forward)


def figure(curves: Sequence[Curve]) -> str:
    """Return one panel per size that grows: costs relative to the smallest, both axes logarithmic."""
    names = list(dict.fromkeys(each.what for each in curves))
    grown = [math.log2(max(costs) / costs[0]) for each in curves for costs in (each.time, each.memory)]
    up = Axis.over([0, *grown], TOP + HEIGHT, TOP, low=0, high=None)  # one for all panels
    shapes = [
        shape
        for i, name in enumerate(names)
        for shape in panel(name, [each for each in curves if each.what == name], i * WIDTH, up)
    ]
    shapes += legend(TOP + HEIGHT + BOTTOM + 15)
    return drawing(WIDTH * len(names), TOP + HEIGHT + BOTTOM + 30, shapes, "Growth of time and memory")


LINES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("critters", "time"): (COLOURS[0], "critters, processor time"),
    ("critters", "memory"): (COLOURS[5], "critters, memory"),
    ("sd14", "time"): (COLOURS[1], "SD 1.4, FLOPs"),
    ("sd14", "memory"): (COLOURS[4], "SD 1.4, memory"),
}


def panel(name: str, curves: Sequence[Curve], left: float, up: Axis) -> Iterator[str]:
    """Draw the curves of one size."""
    lines = {
        (each.model, kind): [
            (math.log2(size / each.sizes[0]), math.log2(cost / costs[0]))
            for size, cost in zip(each.sizes, costs, strict=True)
        ]
        for each in curves
        for kind, costs in (("time", each.time), ("memory", each.memory))
    }
    points = [point for line_points in lines.values() for point in line_points]
    start, end = left + LEFT, left + WIDTH - 10
    across = Axis.over([0, *(x for x, _ in points)], start, end, low=0, high=None)
    yield text((start + end) / 2, 22, name)
    for tick in {round(tick) for tick in up.ticks()}:
        yield line([(start, up.at(tick)), (end, up.at(tick))], colour=GRID, width=1)
        yield text(start - 5, up.at(tick) + 4, f"x{2.0**tick:g}", anchor="end", colour=FAINT)
    for tick in {round(tick) for tick in across.ticks()}:
        yield text(across.at(tick), TOP + HEIGHT + 18, f"x{2.0**tick:g}", colour=FAINT)
    for key, line_points in lines.items():
        colour, places = LINES[key][0], [(across.at(x), up.at(y)) for x, y in line_points]
        yield line(places, colour=colour)
        yield from (dot(*place, colour=colour, size=3) for place in places)


def legend(y: float) -> Iterator[str]:
    """Name the lines."""
    for i, (colour, words) in enumerate(LINES.values()):
        yield dot(LEFT + 200 * i, y - 4, colour=colour)
        yield text(LEFT + 200 * i + 10, y, words, anchor="start")


def main() -> None:
    """Measure, count, print; write JSON and figure where asked."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", HiperWarning)
    curves = [*embedded(arguments.rounds), *full_size()]
    report = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "curves": [each.as_record() for each in curves],
    }
    finish(arguments.out, report)
    if arguments.figure:
        arguments.figure.write_text(figure(curves) + "\n")


if __name__ == "__main__":
    main()
