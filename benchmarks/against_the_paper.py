"""A whole fit by the paper's recipe as published, beside this package's methods.

    python -m benchmarks.against_the_paper [--rounds 3] [--arms ARM ...] [--out FILE]

Whole jobs on the embedded model, every arm once per round, in turn, so that whatever else the computer does falls on
all of them; medians count, of elapsed and of processor time. Each run is written down at once, and the same command
resumes where it was stopped; runs on other weights of the model are dropped.

`published` is the recipe of the paper's reference procedure in our own words: the denoiser's weights ask for gradients
and keep adding them up, float32, one timestep a step, and every 100 steps three pictures of 50 DDIM steps, drawn
under guidance by a second model that stays in memory. It comes to the same tail as `hiper:paper`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import animal, options, sitting, timed, write
from torch import Tensor
from torch.nn import functional as F

import hiper
from hiper.backbones import Backbone
from hiper.conditioning import place_tail, take_tail
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


@dataclass(frozen=True, kw_only=True)
class Job:
    """One subject, and what it is to become; the second model draws the published recipe's previews."""

    backbone: Backbone
    second: Backbone
    subject: hiper.Subject
    target: str


def published(job: Job, steps: int) -> Tensor:
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
            if step % PREVIEW_EVERY == 0:
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
        second.sampling_settings(
            num_inference_steps=PREVIEW_STEPS, guidance_scale=GUIDANCE, scheduler="ddim"
        ),
        seeds=range(PREVIEW_PICTURES),
    )


def work_of(arm: str, job: Job) -> Callable[[], object]:
    """Return an arm's job."""
    if arm == PUBLISHED:
        return partial(published, job, STEPS)
    method, _, preset = arm.partition(":")
    target: dict[str, Any] = {"target": job.target} if get_method(method).per_sentence else {}
    return partial(hiper.fit, job.backbone, job.subject, method=method, preset=preset, **target)


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians by arm, and how often each fits into the published recipe's time."""
    medians = {
        arm: {
            name: statistics.median(run[name] for run in runs if run["arm"] == arm)
            for name in ("seconds", "processor_seconds")
        }
        for arm in dict.fromkeys(run["arm"] for run in runs)
    }
    base = medians.get(PUBLISHED)
    if base:
        for found in medians.values():
            for name in list(found):
                found[f"{name}_of_{PUBLISHED}"] = base[name] / found[name]
    return medians


def compare(job: Job, arms: Sequence[str], rounds: int, out: Path) -> None:
    """Make the runs that are not written down in `out` yet; print the medians."""
    record: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    weights = job.backbone.weights_sha256()
    if record.get("weights") != weights:  # figures of an earlier training say nothing of this one
        record = {"weights": weights, "runs": []}
    runs: list[dict[str, Any]] = record["runs"]
    done = {(run["arm"], run["round"]) for run in runs}
    for number in range(rounds):
        for arm in arms:
            if (arm, number) in done:
                continue
            found = {name: round(value, 3) for name, value in timed(work_of(arm, job)).items()}
            runs.append({"arm": arm, "round": number, "threads": torch.get_num_threads(), **found})
            print(json.dumps(runs[-1]), flush=True)
            record["whole"] = summary(runs)
            write(out, record)
    print(json.dumps(summary(runs), indent=2))


def critters_job() -> Job:
    """An unseen animal that is to sit."""
    backbone, second = (hiper.load_backbone("critters", device="cpu") for _ in range(2))
    return Job(backbone=backbone, second=second, subject=animal(), target=sitting())


def main() -> None:
    """Compare and write down."""
    parser = options(__doc__, out=Path("benchmarks/against_the_paper.json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    given = parser.parse_args()
    compare(critters_job(), given.arms, given.rounds, given.out)


if __name__ == "__main__":
    main()
