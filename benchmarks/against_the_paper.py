"""A whole fit by the paper's recipe as published beside this package's methods, and a step at the size of SD 1.4.

    python -m benchmarks.against_the_paper [--short] [--rounds 3] [--arms ARM ...] [--out FILE]
    python -m benchmarks.against_the_paper --full-size [--steps 2] [--out FILE]

The first runs whole jobs on the embedded model, every arm once per round, in turn, so that whatever else the computer
does falls on all of them; medians count, of elapsed and of processor time. Each run is written down at once, and the
same command goes on where it was stopped; runs on other weights of the model are dropped. `--short` makes two short
runs of each job, a fiftieth and a twenty-fifth of its steps, and draws the line through them out to the whole: its
figures are marked as extrapolated and kept apart from those of whole jobs.

`published` is the recipe of the paper's reference procedure in our own words: the denoiser's weights ask for gradients
and keep adding them up, float32, one noise level a step, and every 100 steps three pictures of 50 DDIM steps, drawn
under guidance by a second model that stays in memory. It comes to the same tail as `hiper:paper`.

`--full-size` needs some 14 GB of memory; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks import full_size_step
from torch import Tensor
from torch.nn import functional as F

import hiper
from hiper.analysis import demo_scene
from hiper.backbones import Backbone
from hiper.conditioning import place_tail, take_tail
from hiper.critters import bare_caption, render
from hiper.errors import HiperWarning
from hiper.files import atomic_write
from hiper.images import fit_square
from hiper.methods import get_method
from hiper.seeds import generator

PUBLISHED = "published"
ARMS = (
    PUBLISHED,
    "hiper:paper",
    "hiper:default",
    "textual-inversion:paper",
    "dreambooth:paper",
    "imagic:paper",
    "textual-inversion:default",
    "dreambooth:default",
    "imagic:default",
)
STEPS, LEARNING_RATE, TAIL, STRENGTH, GUIDANCE = 1000, 5e-3, 5, 0.8, 7.5
PREVIEW_EVERY, PREVIEW_PICTURES, PREVIEW_STEPS = 100, 3, 50
SCALES = (0.02, 0.04)
COUNTS = ("steps", "weight_steps", "class_images")
"""Options that say how much is to be done."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One subject, and what it is to become; the second model draws the published recipe's previews."""

    backbone: Backbone
    second: Backbone
    subject: hiper.Subject
    target: str


def published(job: Job, steps: int, *, previews: bool = True) -> Tensor:
    """Fit as published; return the tail [5, embed]."""
    backbone, random = job.backbone, generator(0)
    caption = backbone.encode(job.subject.caption)
    latents = backbone.latents(fit_square(job.subject.image, backbone.resolution), random)
    tail = take_tail(caption, TAIL).requires_grad_()
    adam = torch.optim.Adam([tail], lr=LEARNING_RATE)
    backbone.denoiser.requires_grad_(True)
    try:
        for step in range(steps):
            noise = torch.randn(latents.shape, generator=random)
            t = torch.randint(0, backbone.timesteps, (1,), generator=random)
            diffused = backbone.add_noise(latents, noise, t)
            predicted = backbone.predict(diffused.noisy, t, place_tail(caption, tail, "replace"))
            torch.autograd.backward(F.mse_loss(predicted, diffused.target))
            adam.step()
            adam.zero_grad()
            if previews and step % PREVIEW_EVERY == 0:
                preview(job, tail.detach())
    finally:
        backbone.denoiser.requires_grad_(False)
        backbone.denoiser.zero_grad(set_to_none=True)
    return tail.detach()


def preview(job: Job, tail: Tensor) -> None:
    """Draw what the tail has come to."""
    second = job.second
    second.sample(
        place_tail(second.encode(job.target), STRENGTH * tail, "replace"),
        [second.encode_negative("")],
        seeds=range(PREVIEW_PICTURES),
        steps=PREVIEW_STEPS,
        guidance=GUIDANCE,
        scheduler="ddim",
        height=second.resolution,
        width=second.resolution,
    )


def options_of(arm: str, job: Job, scale: float) -> dict[str, Any]:
    """Return an arm's options with its counts scaled, each at least 1."""
    method, _, preset = arm.partition(":")
    given: dict[str, Any] = {"target": job.target} if get_method(method).per_sentence else {}
    options = get_method(method).options(preset, **given)
    counts = {name: getattr(options, name, 0) for name in COUNTS}
    return {**given, **{name: max(1, round(count * scale)) for name, count in counts.items() if count}}


def work_of(arm: str, job: Job, scale: float) -> Callable[[], object]:
    """Return an arm's job, scaled; the previews of the published recipe are left out of a scaled one."""
    if arm == PUBLISHED:
        return partial(published, job, round(STEPS * scale), previews=scale == 1)
    method, _, preset = arm.partition(":")
    options = options_of(arm, job, scale)
    return partial(hiper.fit, job.backbone, job.subject, method=method, preset=preset, **options)


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Do it once; elapsed and processor seconds."""
    begun, used = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - begun, "processor_seconds": time.process_time() - used}


def whole(arm: str, job: Job) -> dict[str, float]:
    """Do a whole job."""
    return timed(work_of(arm, job, 1))


def extrapolated(arm: str, job: Job) -> dict[str, float]:
    """Do two short ones, and draw the line through them out to the whole; a preview is measured for itself."""
    near, far = (timed(work_of(arm, job, scale)) for scale in SCALES)
    reach = (1 - SCALES[0]) / (SCALES[1] - SCALES[0])
    found = {name: near[name] + reach * (far[name] - near[name]) for name in near}
    if arm == PUBLISHED:
        one = timed(partial(preview, job, take_tail(job.second.encode(job.target), TAIL)))
        found = {name: found[name] + STEPS / PREVIEW_EVERY * one[name] for name in found}
    return found


def summary(runs: Sequence[Mapping[str, Any]], mode: str) -> dict[str, dict[str, float]]:
    """Medians by arm, and how often each fits into the published recipe's time, over runs of one mode."""
    medians = {
        arm: {
            name: statistics.median(run[name] for run in runs if (run["arm"], run["mode"]) == (arm, mode))
            for name in ("seconds", "processor_seconds")
        }
        for arm in dict.fromkeys(run["arm"] for run in runs if run["mode"] == mode)
    }
    base = medians.get(PUBLISHED)
    if base:
        for found in medians.values():
            for name in list(found):
                found[f"{name}_of_{PUBLISHED}"] = base[name] / found[name]
    return medians


def compare(job: Job, arms: Sequence[str], rounds: int, mode: str, out: Path) -> None:
    """Make the runs that are not written down in `out` yet; print the medians."""
    record: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    weights = job.backbone.weights_sha256()
    if record.get("weights") != weights:  # figures of an earlier training say nothing of this one
        record = {"full_size": record.get("full_size"), "weights": weights, "runs": []}
    runs: list[dict[str, Any]] = record["runs"]
    done = {(run["arm"], run["round"], run["mode"]) for run in runs}
    for number in range(rounds):
        for arm in arms:
            if (arm, number, mode) in done:
                continue
            found = (whole if mode == "whole" else extrapolated)(arm, job)
            runs.append(
                {
                    "arm": arm,
                    "round": number,
                    "mode": mode,
                    "threads": torch.get_num_threads(),
                    **{name: round(value, 3) for name, value in found.items()},
                }
            )
            print(json.dumps(runs[-1]), flush=True)
            record[mode] = summary(runs, mode)
            write(out, record)
    print(json.dumps({mode: summary(runs, mode)}, indent=2))


def full_size(steps: int, out: Path) -> None:
    """Measure steps at the size of SD 1.4, and say what of the published recipe's share per step they take."""
    record: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    rows = {
        name: full_size_step.measure(getattr(torch, name), steps, previews=True)
        for name in ("float32", "bfloat16")
    }
    share = PREVIEW_PICTURES * PREVIEW_STEPS * 2 / PREVIEW_EVERY
    base = rows["float32"]["unfrozen_seconds"] + share * rows["float32"]["forward_seconds"]
    record["full_size"] = {
        "threads": torch.get_num_threads(),
        **rows,
        "published_seconds_per_step_without_previews": rows["float32"]["unfrozen_seconds"],
        "published_seconds_per_step": round(base, 3),
        **{
            f"{name}_frozen_fits_into_published": round(base / row["frozen_seconds"], 2)
            for name, row in rows.items()
        },
    }
    write(out, record)
    print(json.dumps(record["full_size"], indent=2))


def write(out: Path, record: Mapping[str, Any]) -> None:
    """Write all of it, or nothing."""
    atomic_write(out, f"{json.dumps(record, indent=2)}\n".encode(), overwrite=True)


def critters_job() -> Job:
    """An unseen animal that is to sit."""
    scene = demo_scene(0)
    return Job(
        backbone=hiper.load_backbone("critters", device="cpu"),
        second=hiper.load_backbone("critters", device="cpu"),
        subject=hiper.Subject.from_image(render(scene), caption=bare_caption(scene)),
        target=bare_caption(scene.edited(pose="sitting")),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/against_the_paper.json"))
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore", HiperWarning)  # a fit of a few steps gains little, and says so
    if given.full_size:
        full_size(given.steps, given.out)
    else:
        compare(
            critters_job(), given.arms, given.rounds, "extrapolated" if given.short else "whole", given.out
        )


if __name__ == "__main__":
    main()
