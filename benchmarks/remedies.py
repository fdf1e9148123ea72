"""What each remedy gives: identity, edits and leaks against the FLOPs of a fit, by pictures whose true answer is known.

    python -m benchmarks.remedies --folder DIR [--split test] [--seed 1] [--subjects 12] [--ideas NAME ...]
                                  [--out FILE.json] [--figure FILE.svg]

Each idea is a line of arms with more and more FLOPs, added to the ideas above it. All arms draw as the model does
by itself, except the paper's preset as it is. Differences are from the paper's preset:
same subject, edit and seed, 95 % intervals over subjects. Everything lies in DIR and goes on where it was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import finish, options

import hiper
from hiper.analysis import counting
from hiper.backbones import Backbone
from hiper.bench import (
    Arm,
    BenchReport,
    Comparison,
    Suite,
    SuiteSpec,
    build_report,
    open_suite,
    parse_arm,
    run,
)
from hiper.conditioning import place_tail, take_tail
from hiper.files import atomic_write, make_folder
from hiper.html import COLOURS, FAINT, GRID, Axis, dot, drawing, line, text
from hiper.methods import FitInput, fit_all, get_method
from hiper.seeds import generator
from hiper.training import EVALUATIONS, Outcome

DRAWN = "guidance_scale=none,num_inference_steps=none,scheduler=none"
"""As the model draws by itself, for arms of the paper's preset, which has its own way."""
PAPER = f"hiper:paper,{DRAWN}"
SLOTS = 8
"""Subjects fitted at a time: a call of the denoiser costs a CPU half as much per timestep as alone."""

_RAISED = "schedule=cosine,learning_rate=0.1"
_HEAVY = f"{_RAISED},t_min=0.5"
_KEPT = "schedule=cosine,t_min=0.5,unit=embedding_rms,norm=kept,learning_rate=0.15"
_MEAN = "hiper,init=caption,learning_rate=0.15,t_min=0.5"
IDEAS: Mapping[str, Sequence[str]] = {
    "the paper's fit": [f"hiper:paper,num_train_steps={steps},{DRAWN}" for steps in (50, 200)] + [PAPER],
    "+ step size 0.1, falling by a cosine": [
        f"hiper:paper,{_RAISED},num_train_steps={steps},{DRAWN}" for steps in (20, 40, 80)
    ],
    "+ heavy noise only": [f"hiper:paper,{_HEAVY},num_train_steps={steps},{DRAWN}" for steps in (20, 40, 80)],
    "+ kept lengths": [f"hiper:paper,{_KEPT},num_train_steps={steps},{DRAWN}" for steps in (20, 40, 80)],
    "+ mean of the second half": [f"{_MEAN},num_train_steps={steps}" for steps in (10, 20, 40, 80)],
    "+ the guess": ["hiper,num_train_steps=1"]
    + [f"hiper,num_train_steps={steps}" for steps in (10, 20, 40, 80)],
    "the guess, 4 timesteps a step": [
        f"hiper,batch=4,learning_rate=0.16,num_train_steps={steps}" for steps in (5, 10)
    ],
    "the default": [f"hiper,strength={strength}" for strength in (0.6, 1.0)],
    "the paper's preset: 50 DDIM steps, its own guidance scale": ["hiper:paper"],
    "baselines": ["none", "truth"],
}
CURVES = 6
"""The first so many ideas are lines of the figure."""
METRICS = ("colour_distance", "edit_success", "primary", "secondary", "pattern", "collar", "eyes")


def fit_missing(
    backbone: Backbone, suite: Suite, arms: Sequence[Arm], subjects: Sequence[str], folder: Path
) -> None:
    """Fit what the run's folder lacks, several subjects at a time, where the run looks for it."""
    for arm in dict.fromkeys(each.fitted().text for each in arms if each.baseline is None):
        fitted = parse_arm(arm)
        place = make_folder(folder / "fits" / fitted.slug)
        missing = [name for name in subjects if not (place / f"{name}.safetensors").exists()]
        method = get_method(fitted.method)
        for start in range(0, len(missing), SLOTS):
            some = missing[start : start + SLOTS]
            cases = [suite.cases(name)[0] for name in some]
            requests = [
                FitInput(
                    subject=hiper.Subject.from_image(case.source, caption=case.source_caption),
                    options=method.options(fitted.preset, **fitted.changes),
                )
                for case in cases
            ]
            for name, outcome in zip(some, fit_all(method, backbone, requests, slots=SLOTS), strict=True):
                _save(outcome, place / f"{name}.safetensors")
            print(f"fitted {arm}: {', '.join(some)}", flush=True)


def _save(outcome: Outcome[hiper.Artifact], path: Path) -> None:
    """A fit that failed is left to the run, which tells why."""
    if isinstance(outcome.result, hiper.Artifact):
        outcome.result.save(path, overwrite=True)


def count(backbone: Backbone) -> dict[str, int]:
    """Count the FLOPs of one timestep, `step` with its gradient and `forward` without, and of a `guess`."""
    conditioning = backbone.encode("a dog")
    tail = take_tail(conditioning, 5).requires_grad_()
    latents = torch.randn(1, *backbone.latent_shape, generator=generator(0))
    t = torch.tensor([backbone.timesteps // 2])
    found = {}
    with backbone.training_mode():
        for name in ("step", "forward"):
            with counting() as counter, torch.set_grad_enabled(name == "step"):
                predicted = backbone.predict(latents, t, place_tail(conditioning, tail, "replace"))
                if name == "step":
                    torch.autograd.backward(predicted.square().mean())
            found[name] = counter.work().flops
    if backbone.tail_encoder is not None:
        with counting() as counter:
            backbone.tail_encoder.guess(latents)
        found["guess"] = counter.work().flops
    return found


def cost(arm: Arm, flops: Mapping[str, int]) -> int | None:
    """FLOPs of a fit: its steps, the fixed batch before and after, and the guess that it may start from.

    None for an arm that fits nothing.
    """
    if arm.baseline is not None:
        return None
    levels = int(arm.options["num_train_steps"]) * int(arm.options["batch"])
    guess = 0 if arm.options.get("init") == "caption" else flops.get("guess", 0)
    return levels * flops["step"] + 2 * EVALUATIONS * flops["forward"] + guess


def table(report: BenchReport, arms: Mapping[str, str], flops: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row per arm: what it cost, its means, and its differences from the paper's preset."""
    means = {row.arm: row for row in report.rows}
    differences: dict[str, list[Comparison]] = {}
    for each in report.comparisons:
        differences.setdefault(each.arm, []).append(each)
    whole = cost(parse_arm(PAPER), flops)
    assert whole is not None
    rows = []
    for name, idea in arms.items():
        spent = cost(parse_arm(name), flops)
        rows.append(
            {
                "idea": idea,
                "arm": name,
                "flops": spent,
                "share_of_paper": spent and round(spent / whole, 4),
                "means": {metric: each.mean for metric, each in means[name].scores.items()},
                "minus_paper": {
                    each.metric: each.difference and asdict(each.difference) for each in differences[name]
                },
            }
        )
    return rows


def figure(rows: Sequence[Mapping[str, Any]], metric: str = "colour_distance") -> str:
    """Return the figure: difference from the paper's preset against the share of its FLOPs, one line per idea."""
    ideas = list(IDEAS)[:CURVES]
    drawn = [row for row in rows if row["idea"] in ideas and row["means"][metric] is not None]
    left, right, top, bottom = 60, 620, 30, 380
    across = Axis(
        low=math.log10(min(row["share_of_paper"] for row in drawn)) - 0.1, high=0.1, start=left, end=right
    )
    up = Axis.over((row["means"][metric] for row in drawn), top, bottom, low=None, high=None)
    shapes = [
        text(left, 18, "mean colour distance to the true answer (up is better)", anchor="start", colour=FAINT)
    ]
    for tick in up.ticks():
        shapes.append(line([(left, up.at(tick)), (right, up.at(tick))], colour=GRID, width=1))
        shapes.append(text(left - 6, up.at(tick) + 4, f"{tick:.3g}", anchor="end"))
    for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1):
        x = across.at(math.log10(share))
        if x >= left:
            shapes.append(line([(x, top), (x, bottom)], colour=GRID, width=1))
            shapes.append(text(x, bottom + 18, f"{share:g}"))
    shapes.append(text((left + right) / 2, bottom + 38, "FLOPs of a fit, as a share of the paper preset's"))
    for number, idea in enumerate(ideas):
        places = [
            (across.at(math.log10(row["share_of_paper"])), up.at(row["means"][metric]))
            for row in sorted(drawn, key=lambda row: float(row["share_of_paper"]))
            if row["idea"] == idea
        ]
        colour = COLOURS[number % len(COLOURS)]
        shapes += [line(places, colour=colour), *(dot(*place, colour=colour) for place in places)]
        shapes.append(dot(right + 20, top + 18 * number + 16, colour=colour))
        shapes.append(text(right + 30, top + 18 * number + 20, idea, anchor="start"))
    return drawing(right + 270, bottom + 55, shapes, "Colour distance against the FLOPs of a fit")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, draw, score; print the table, and write JSON and figure where asked."""
    parser = options(__doc__)
    parser.add_argument("--split", choices=("tuning", "test"), default="test")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--ideas", nargs="+", choices=list(IDEAS), default=list(IDEAS))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args(arguments)
    ideas = {name: IDEAS[name] for name in dict.fromkeys([*given.ideas, "the paper's fit"])}
    arms = {parse_arm(each).text: name for name, some in ideas.items() for each in some}
    spec = SuiteSpec(name="critters", split=given.split, seed=given.seed)
    suite, backbone = open_suite(spec), hiper.load_backbone("critters")
    flops = count(backbone)
    fit_missing(
        backbone, suite, [parse_arm(each) for each in arms], suite.subjects()[: given.subjects], given.folder
    )
    run(spec, "critters", list(arms), given.folder, seeds=1, limit=given.subjects)
    rows = table(build_report(given.folder, parse_arm(PAPER).text), arms, flops)
    record = {
        "split": given.split,
        "seed": given.seed,
        "subjects": given.subjects,
        "flops": flops,
        "arms": rows,
    }
    finish(given.out, record)
    if given.figure:
        atomic_write(given.figure, f"{figure(rows)}\n".encode(), overwrite=True)


if __name__ == "__main__":
    main()
