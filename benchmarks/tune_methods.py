"""Search for every method's settings on the embedded model, with the same number of tries for each.

    python -m benchmarks.tune_methods [--trials 8] [--subjects 2] [--methods NAME ...] [--out FILE]

A try is the mean over the tuning split's first subjects and their four edits, one picture each. A picture scores its
colour distance to the true answer; one whose edit failed scores that of the prompt alone, so that a copy of the
source wins nothing. The first try of a method is its default preset of then, which `defaults` in FILE has, the others
are drawn from its space by a seed.
Tries go round the methods in turn, each is written down at once, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import random
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.common import draw, options, write

import hiper
from hiper.backbones import Backbone
from hiper.bench import Case, CrittersSuite, Suite
from hiper.errors import FitError, HiperWarning
from hiper.methods import get_method

Draw = Callable[[random.Random], float | int]
Floor = Callable[[Case], float]


def log_uniform(low: float, high: float) -> Draw:
    """Draw a number whose logarithm is uniform, to two digits."""
    return lambda rng: float(f"{low * (high / low) ** rng.random():.2g}")


def uniform(low: float, high: float) -> Draw:
    """Draw a number, to two digits."""
    return lambda rng: round(rng.uniform(low, high), 2)


def one_of(*values: int) -> Draw:
    """Draw one of the values."""
    return lambda rng: rng.choice(values)


SPACES: Mapping[str, Mapping[str, Draw]] = {
    "ddim-inversion": {"strength": uniform(0.4, 1.0), "guidance_scale": uniform(1.5, 7.5)},
    "dreambooth": {"learning_rate": log_uniform(1e-5, 1e-3), "num_train_steps": one_of(50, 100, 200)},
    "dreambooth-lora": {
        "learning_rate": log_uniform(1e-4, 1e-2),
        "num_train_steps": one_of(50, 100, 200),
        "rank": one_of(2, 4, 8, 16),
    },
    "hiper": {
        "learning_rate": log_uniform(3e-2, 3e-1),
        "num_train_steps": one_of(40, 80, 160),
        "strength": uniform(0.6, 1.1),
    },
    "imagic": {
        "learning_rate": log_uniform(3e-3, 1e-1),
        "weight_learning_rate": log_uniform(5e-6, 5e-4),
        "strength": uniform(0.0, 1.0),
    },
    "null-text": {"strength": uniform(0.4, 1.0), "guidance_scale": uniform(1.5, 7.5)},
    "sdedit": {"strength": uniform(0.4, 1.0), "guidance_scale": uniform(1.5, 7.5)},
    "textual-inversion": {
        "learning_rate": log_uniform(2e-3, 2e-1),
        "num_train_steps": one_of(100, 200, 400),
        "vectors": one_of(1, 2, 4),
    },
}


def options_of(method: str, trial: int) -> dict[str, float | int]:
    """Return what a try changes in the default preset; the first changes nothing."""
    if trial == 0:
        return {}
    rng = random.Random(f"{method} {trial}")
    return {name: draw(rng) for name, draw in SPACES[method].items()}


def score(success: float | None, distance: float, alone: float) -> float:
    """Return what a picture scores, lower is better; `alone`: the distance of the prompt alone."""
    return distance if success == 1 else max(distance, alone)


def alone(backbone: Backbone, suite: Suite) -> Floor:
    """Return a function from a case to the colour distance of what its target prompt alone draws."""

    @cache
    def distance(subject: str, edit: str) -> float:
        case = next(each for each in suite.cases(subject) if each.edit == edit)
        (picture,) = draw(backbone, [backbone.encode(case.target_caption)])
        return float(suite.score(case, picture)["colour_distance"] or 0)

    return lambda case: distance(case.subject, case.edit)


def capture(
    backbone: Backbone,
    suite: Suite,
    subjects: Sequence[str],
    floor: Floor,
    method: str,
    options: Mapping[str, Any],
) -> dict[str, object]:
    """Fit, edit and score; a fit that fails scores nothing."""
    begun, scores, successes, distances = time.process_time(), [], [], []
    try:
        for name in subjects:
            artifact = None
            for case in suite.cases(name):
                per_sentence = get_method(method).per_sentence
                if artifact is None or per_sentence:
                    target: dict[str, Any] = {"target": case.target_caption} if per_sentence else {}
                    subject = hiper.Subject.from_image(case.source, caption=case.source_caption)
                    artifact = hiper.fit(backbone, subject, method=method, **options, **target)
                (image,) = hiper.edit(backbone, artifact, case.target_caption, keep=0).images
                found = suite.score(case, image)
                distance = float(found["colour_distance"] or 0)
                successes.append(float(found["edit_success"] or 0))
                distances.append(distance)
                scores.append(score(found["edit_success"], distance, floor(case)))
    except FitError as error:
        return {"score": None, "failed": str(error)}
    return {
        "score": round(statistics.mean(scores), 3),
        "edit_success": round(statistics.mean(successes), 3),
        "colour_distance": round(statistics.mean(distances), 3),
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def tune(backbone: Backbone, methods: Sequence[str], trials: int, subjects: int, out: Path) -> None:
    """Make the tries that are not written down in `out` yet."""
    suite = CrittersSuite(split="tuning")
    names, floor = suite.subjects()[:subjects], alone(backbone, suite)
    record: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    tries: list[dict[str, Any]] = record.setdefault("tries", [])
    defaults: dict[str, Any] = record.setdefault("defaults", {})
    done = {(each["method"], each["trial"]) for each in tries}
    for trial in range(trials):
        for method in methods:
            if (method, trial) in done:
                continue
            options = options_of(method, trial)
            if trial == 0:
                defaults[method] = get_method(method).presets["default"]
            found = capture(backbone, suite, names, floor, method, options)
            tries.append({"method": method, "trial": trial, "options": options, **found})
            print(json.dumps(tries[-1]), flush=True)
            record |= {"split": "tuning", "subjects": len(names), "backbone": backbone.id}
            write(out, record)


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune and write the log."""
    parser = options(__doc__, out=Path("benchmarks/tune_methods.json"))
    parser.add_argument("--backbone", default="critters")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=sorted(SPACES), default=sorted(SPACES))
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore", HiperWarning)
    tune(hiper.load_backbone(given.backbone), given.methods, given.trials, given.subjects, given.out)


if __name__ == "__main__":
    main()
