"""Which sampler in how few steps draws edits as good as 50 steps of DDIM, on the embedded model.

    python -m benchmarks.solvers --kept runs/solvers [--arm hiper] [--subjects 12] [--seeds 2] [--split tuning]
        [--draw ddim:25 unipc-karras:15 ...] [--out benchmarks/solvers.json]

Every sampler draws the suite's edits from the same noise with the same learnt tokens. Fits and pictures are kept in
--kept under the weights' own hash, so that a stopped run goes on where it was.

Scores are the benchmark's (identity: mean share of its attributes that are right). "converged" is the distance of the
whole picture (CIE76, after the benchmark's blur) to the one that 200 steps of DDIM draw. Each figure is the mean of
the reference and, for the others, the paired difference to it with a 95 % interval over subjects. "as good": the worse
end of every score's interval is inside its margin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from benchmarks.common import finish, options
from PIL import Image

import hiper
from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.bench import (
    FEWEST,
    IDENTITY,
    Arm,
    Case,
    CrittersSuite,
    Fits,
    IntervalEstimate,
    Rows,
    Suite,
    difference,
    mean,
    parse_arm,
)
from hiper.files import atomic_write
from hiper.images import png_bytes
from hiper.metrics import picture_distance
from hiper.options import digest

MARGINS = {
    "edit_success": 0.05,
    "preservation": 0.05,
    "identity": 0.05,
    "colour_distance": 0.5,
    "converged": 0.5,
}
"""How much worse an average edit may be and still be called as good; an eye sees 2.3 of CIE76."""
LOWER_IS_BETTER = ("colour_distance", "converged")
DRAW = {
    "ddim": (15, 25),
    "dpm++": (15, 20),
    "dpm++-karras": (12, 15, 20),
    "unipc": (15, 20),
    "unipc-karras": (10, 12, 15, 20),
}


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampler and its number of steps, written NAME:STEPS."""

    name: str
    steps: int

    @classmethod
    def parse(cls, text: str) -> Sampler:
        name, _, steps = text.partition(":")
        return cls(name=name, steps=int(steps))

    @property
    def text(self) -> str:
        return f"{self.name}:{self.steps}"


REFERENCE, CONVERGED = Sampler(name="ddim", steps=50), Sampler(name="ddim", steps=200)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A model, the fits of an arm, and the folder of what has been drawn."""

    backbone: Backbone
    suite: Suite
    folder: Path
    seeds: range

    def pictures(self, artifact: Artifact, case: Case, sampler: Sampler) -> list[Image.Image]:
        """Draw one picture per seed, or take them from an earlier run."""
        paths = [
            self.folder / case.subject / f"{case.edit}-{sampler.name}-{sampler.steps}-{seed}.png"
            for seed in self.seeds
        ]
        if not all(path.exists() for path in paths):
            drawn = hiper.edit(
                self.backbone,
                artifact,
                case.target_caption,
                seeds=self.seeds,
                scheduler=sampler.name,
                num_inference_steps=sampler.steps,
                keep=0,
            )
            paths[0].parent.mkdir(parents=True, exist_ok=True)
            for path, picture in zip(paths, drawn.images, strict=True):
                atomic_write(path, png_bytes(picture), overwrite=True)
        return [opened(path) for path in paths]

    def scores(
        self, artifact: Artifact, case: Case, samplers: Sequence[Sampler]
    ) -> Iterator[dict[str, dict[str, float]]]:
        """Yield, for each seed, sampler -> scores."""
        converged = self.pictures(artifact, case, CONVERGED)
        drawn = {sampler.text: self.pictures(artifact, case, sampler) for sampler in samplers}
        for i, goal in enumerate(converged):
            yield {text: self._score(case, some[i], goal) for text, some in drawn.items()}

    def _score(self, case: Case, picture: Image.Image, goal: Image.Image) -> dict[str, float]:
        found = {name: value for name, value in self.suite.score(case, picture).items() if value is not None}
        identity = [found[name] for name in IDENTITY if name in found]
        scores = {name: found[name] for name in MARGINS.keys() & found.keys()}
        if identity:
            scores["identity"] = fmean(identity)
        return {**scores, "converged": picture_distance(picture, goal)}


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


Values = Mapping[str, Mapping[str, Mapping[str, Sequence[tuple[float, ...]]]]]
"""Sampler -> score -> subject -> (its value, the reference's) for each picture."""


def measured(
    service: Service, fits: Fits, arm: Arm, subjects: Sequence[str], samplers: Sequence[Sampler]
) -> Values:
    values: dict[str, dict[str, dict[str, list[tuple[float, ...]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for subject in subjects:
        artifact = fits.of(arm, subject).artifact
        for case in service.suite.cases(subject):
            for found in service.scores(artifact, case, [REFERENCE, *samplers]):
                plain = found[REFERENCE.text]
                for text, scores in found.items():
                    for name in scores.keys() & plain.keys():
                        values[text][name][subject].append((scores[name], plain[name]))
        print(f"subject {subject} done", flush=True)
    return values


def as_good(found: Mapping[str, IntervalEstimate]) -> bool:
    """Whether no score can, by its interval, be worse than the reference's by more than its margin."""
    return all(_worst(name, found[name]) <= margin for name, margin in MARGINS.items())


def _worst(name: str, gained: IntervalEstimate) -> float:
    end = gained.high if name in LOWER_IS_BETTER else gained.low
    if end is None and gained.subjects < FEWEST:
        return float("inf")
    if end is None:  # all subjects agree
        end = gained.value
    return end if name in LOWER_IS_BETTER else -end


def estimates(rows: Mapping[str, Rows], text: str) -> dict[str, IntervalEstimate]:
    estimate = mean if text == REFERENCE.text else difference
    return {name: found for name in MARGINS if (found := estimate(rows[name]))}


def main() -> None:
    """Draw what is missing, score, print the table; write JSON where asked."""
    parser = options(__doc__)
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--arm", default="hiper")
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--split", default="tuning")
    parser.add_argument(
        "--draw", nargs="+", default=[f"{name}:{n}" for name, steps in DRAW.items() for n in steps]
    )
    given = parser.parse_args()
    backbone, suite = hiper.load_backbone("critters"), CrittersSuite(split=given.split)
    arm = parse_arm(given.arm)
    folder = given.kept / f"{digest(backbone.model_key())[:12]}-{given.split}"
    fits = Fits(folder / "fits", suite, backbone, lambda: None)
    service = Service(backbone=backbone, suite=suite, folder=folder / arm.slug, seeds=range(given.seeds))
    samplers = [Sampler.parse(text) for text in given.draw]
    values = measured(service, fits, arm, suite.subjects()[: given.subjects], samplers)
    report = {text: estimates(rows, text) for text, rows in values.items()}
    record = {
        "suite": dict(suite.identity()),
        "arm": arm.text,
        "subjects": given.subjects,
        "seeds": given.seeds,
        "weights": backbone.weights_sha256()[:16],
        "torch": torch.__version__,
        "margins": MARGINS,
        "samplers": {
            text: {name: asdict(each) for name, each in found.items()} | {"as_good": as_good(found)}
            for text, found in report.items()
        },
    }
    finish(given.out, record)


if __name__ == "__main__":
    main()
