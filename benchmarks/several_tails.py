"""What several tails do on the embedded model: averaged, side by side, and in the negative branch.

    python -m benchmarks.several_tails [--pairs 8] [--fits several-tails] [--out benchmarks/several_tails.json]
        [--sheet docs/images/several-tails.png]

Animals are those of the critters suite, tuning split, seed 7. Fits are kept in --fits, so that a stopped run goes on.
Every figure is a mean over pairs, with the paired difference to the first arm of its table and its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import finish, options
from PIL import Image, ImageDraw, ImageFont

import hiper
from hiper.artifacts import Artifact, average, cached_fit, combine
from hiper.backbones import Backbone
from hiper.bench import CrittersCase, CrittersSuite, difference
from hiper.critters import Scene, bare_caption, draw_view, load_reader, render, subject_mask, world
from hiper.files import atomic_write, safe_slug
from hiper.images import png_bytes
from hiper.metrics import colour_distance

STEPS = 24
"""Of a fit; the default preset's other options."""
DRAWING: Mapping[str, Any] = {"num_inference_steps": 12, "scheduler": "dpm++", "keep": 0}
STYLE = "watercolor"
SUITE_SEED = 7
CELL, GAP, LABEL = 112, 8, 22

Scores = Mapping[str, float]
Table = dict[str, dict[str, list[Scores]]]
"""Arm -> pair -> scores of its pictures."""


@dataclass(frozen=True, kw_only=True)
class Animal:
    """One animal of the suite: its cases, and scenes of it in other poses and places than its edits ask for."""

    name: str
    cases: Sequence[CrittersCase]
    scenes: Sequence[Scene]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """What a picture is drawn with."""

    artifact: Artifact
    prompt: str
    negative: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture on the sheet."""

    row: str
    label: str
    picture: Image.Image


def animals(count: int) -> list[Animal]:
    suite = CrittersSuite(split="tuning", seed=SUITE_SEED)
    return [_animal(suite, name) for name in suite.subjects()[:count]]


def _animal(suite: CrittersSuite, name: str) -> Animal:
    """Four scenes: the source, then others with fresh views, none in a pose or place that an edit asks for."""
    cases = suite.cases(name)
    before, rng = cases[0].before, np.random.default_rng([SUITE_SEED, int(name)])
    poses = [p for p in world.POSES if p not in {case.after.pose for case in cases} - {before.pose}]
    places = [
        b
        for b in world.BACKGROUNDS
        if b not in {case.after.background for case in cases} - {before.background}
    ]
    start = poses.index(before.pose)
    scenes = [before]
    for number in range(1, 4):
        pose = poses[(start + number) % len(poses)]
        scenes.append(replace(before, pose=pose, background=str(rng.choice(places)), view=draw_view(rng)))
    return Animal(name=name, cases=cases, scenes=scenes)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a tail is fitted to: a scene, its caption, and the name of the file that the tail is kept in."""

    name: str
    scene: Scene
    caption: str

    @property
    def subject(self) -> hiper.Subject:
        return hiper.Subject.from_image(render(self.scene), caption=self.caption)


def pictures(animal: Animal) -> list[Picture]:
    """Return the animal's four pictures, and its watercolor under a caption that keeps silent about the style."""
    plain = [
        Picture(name=f"{animal.name}-{number}", scene=scene, caption=bare_caption(scene))
        for number, scene in enumerate(animal.scenes)
    ]
    painted = replace(animal.scenes[1], style=STYLE)
    return [*plain, Picture(name=f"{animal.name}-style", scene=painted, caption=unstyled(painted))]


def fit_missing(backbone: Backbone, some: Sequence[Picture], folder: Path) -> None:
    """Fit what the folder lacks."""
    for each in some:
        path = folder / f"{each.name}.safetensors"
        if cached_fit(path) is None:
            hiper.fit(backbone, each.subject, num_train_steps=STEPS).save(path, overwrite=True)
            print(f"fitted {each.name}", flush=True)


def unstyled(scene: Scene) -> str:
    """A caption that keeps silent about the style, so that the tail has to learn it."""
    return bare_caption(replace(scene, style="drawing"))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The animals, their fits, and the pictures for the sheet."""

    backbone: Backbone
    herd: Sequence[Animal]
    folder: Path
    sheet: list[Drawn]

    def single(self, animal: Animal, number: int = 0) -> Artifact:
        return Artifact.load(self.folder / f"{animal.name}-{number}.safetensors")

    def style(self, animal: Animal) -> Artifact:
        return Artifact.load(self.folder / f"{animal.name}-style.safetensors")

    def next(self, animal: Animal) -> Animal:
        return self.herd[(self.herd.index(animal) + 1) % len(self.herd)]

    def draw(self, shot: Shot, row: str, label: str) -> Image.Image:
        """Draw one picture, or take it from an earlier run, and put it on the sheet."""
        path = self.folder / f"{safe_slug(f'{row} {label}', limit=100)}.png"
        if not path.exists():
            result = hiper.edit(
                self.backbone, shot.artifact, shot.prompt, negative_prompt=shot.negative, **DRAWING
            )
            atomic_write(path, png_bytes(result.images[0]), overwrite=True)
        with Image.open(path) as drawn:
            picture = drawn.convert("RGB")
        self.sheet.append(Drawn(row=row, label=label, picture=picture))
        return picture


def averaging(bench: Bench) -> Table:
    """One animal, its edits of pose and place: tails of 1, 2 and 4 pictures averaged."""
    suite, table = CrittersSuite(split="tuning", seed=SUITE_SEED), Table()
    for animal in bench.herd:
        singles = [bench.single(animal, number) for number in range(4)]
        arms = {"one picture": singles[0]}
        for count in (2, 4):
            arms[f"average of {count}"] = average(singles[:count])
        for case in animal.cases[:2]:
            row = f"averaging, {animal.name}, {case.edit}"
            for arm, artifact in arms.items():
                picture = bench.draw(Shot(artifact=artifact, prompt=case.target_caption), row, arm)
                scores = {
                    name: value for name, value in suite.score(case, picture).items() if value is not None
                }
                table.setdefault(arm, {}).setdefault(animal.name, []).append(scores)
    return table


Arms = Callable[[Artifact, Artifact, Artifact, Scene], Mapping[str, Shot]]
"""From the tails of an animal, of the next one and of the next one's watercolor, and the goal, to what is drawn."""


def pairs(bench: Bench, title: str, arms: Arms, style: str = "drawing") -> Table:
    """Draw every animal's motion edit with its own tail and the next animal's."""
    table = Table()
    for animal in bench.herd:
        other = bench.next(animal)
        goal = replace(animal.cases[0].after, style=style)
        shots = arms(bench.single(animal), bench.single(other), bench.style(other), goal)
        for arm, shot in shots.items():
            picture = bench.draw(shot, f"{title}, {animal.name}", arm)
            scores = _distances(picture, goal, replace(goal, identity=other.scenes[0].identity))
            table.setdefault(arm, {})[animal.name] = [scores]
    return table


def two_animals(bench: Bench) -> Table:
    """The tails of two animals in a sentence about the first one's species: whose colours arrive?"""

    def arms(ours: Artifact, theirs: Artifact, style: Artifact, goal: Scene) -> dict[str, Shot]:
        learnt = {
            "first alone": ours,
            "second alone": theirs,
            "both, appended": combine([ours, theirs]),
            "both, replacing": combine([ours, theirs], placement="replace"),
            "both, second at 0.4": combine([ours, theirs], strength=[0.8, 0.4]),
        }
        return {arm: Shot(artifact=each, prompt=bare_caption(goal)) for arm, each in learnt.items()}

    return pairs(bench, "two animals", arms)


def subject_and_style(bench: Bench) -> Table:
    """The tail of an animal beside that of another one's watercolor, in a sentence that names no style."""

    def arms(ours: Artifact, theirs: Artifact, style: Artifact, goal: Scene) -> dict[str, Shot]:
        learnt = {
            "subject alone": ours,
            "style alone": style,
            "both, appended": combine([ours, style]),
            "both, replacing": combine([ours, style], placement="replace"),
            "both, style at 0.4": combine([ours, style], strength=[0.8, 0.4]),
            "both, its animal negative": combine([ours, style], negative=theirs),
        }
        named = Shot(artifact=ours, prompt=bare_caption(goal))
        shots = {arm: Shot(artifact=each, prompt=unstyled(goal)) for arm, each in learnt.items()}
        return {**shots, "subject, style named": named}

    return pairs(bench, "subject and style", arms, STYLE)


def negative(bench: Bench) -> Table:
    """The tail of one animal, and that of the next one in the negative branch."""

    def arms(ours: Artifact, theirs: Artifact, style: Artifact, goal: Scene) -> dict[str, Shot]:
        prompt = bare_caption(goal)
        away = combine([ours], negative=theirs)
        half = combine([ours], negative=theirs, negative_strength=0.4)
        return {
            "no negative": Shot(artifact=ours, prompt=prompt),
            "negative": Shot(artifact=away, prompt=prompt),
            "negative at 0.4": Shot(artifact=half, prompt=prompt),
            "negative, sentence too": Shot(artifact=away, prompt=prompt, negative=prompt),
        }

    return pairs(bench, "negative", arms)


_READER = load_reader("caption")


def _distances(picture: Image.Image, goal: Scene, other: Scene) -> Scores:
    """Colour distance to the goal and to the other animal in its place; what the caption's reader finds right."""
    mask, found = subject_mask(goal), _READER.read([picture])[0].values
    first = colour_distance(picture, render(goal), mask)
    second = colour_distance(picture, render(other), subject_mask(other))
    return {
        "to_first": first,
        "to_second": second,
        "nearer_first": float(first < second),
        **{
            name: float(found[name] == getattr(goal, name))
            for name in ("species", "pose", "background", "style")
        },
    }


EXPERIMENTS: Mapping[str, Callable[[Bench], Table]] = {
    "averaging": averaging,
    "two_animals": two_animals,
    "subject_and_style": subject_and_style,
    "negative": negative,
}


def summary(table: Table) -> dict[str, dict[str, object]]:
    """Return per arm and score the mean, and the paired difference to the first arm with its interval."""
    first = next(iter(table.values()))
    names = dict.fromkeys(name for cells in first.values() for cell in cells for name in cell)
    return {arm: {name: _figure(first, pairs, name) for name in names} for arm, pairs in table.items()}


def _figure(
    first: Mapping[str, list[Scores]], pairs: Mapping[str, list[Scores]], name: str
) -> dict[str, object]:
    rows = {
        pair: [
            (ours[name], base[name]) for ours, base in zip(cells, first[pair], strict=True) if name in ours
        ]
        for pair, cells in pairs.items()
    }
    rows = {pair: cells for pair, cells in rows.items() if cells}
    values = [ours for cells in rows.values() for ours, _ in cells]
    estimate = difference(rows)
    assert estimate is not None
    return {
        "mean": round(float(np.mean(values)), 3),
        "difference": {
            key: round(value, 3) if value is not None else None for key, value in asdict(estimate).items()
        },
    }


def contact_sheet(drawn: Sequence[Drawn], rows: Sequence[str]) -> Image.Image:
    """One line of labelled pictures per row."""
    lines = [[each for each in drawn if each.row == row] for row in rows]
    width = GAP + max(map(len, lines)) * (CELL + GAP)
    sheet = Image.new("RGB", (width, GAP + len(lines) * (CELL + 2 * LABEL)), "white")
    canvas = ImageDraw.Draw(sheet)
    for number, (row, line) in enumerate(zip(rows, lines, strict=True)):
        top = GAP + number * (CELL + 2 * LABEL)
        canvas.text((GAP, top), row, "black", ImageFont.load_default(13))
        for column, each in enumerate(line):
            x = GAP + column * (CELL + GAP)
            sheet.paste(each.picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (x, top + LABEL - 4))
            canvas.text((x, top + LABEL + CELL - 4), each.label[:22], "grey", ImageFont.load_default(9))
    return sheet


def main() -> None:
    """Fit, draw, score; print the tables and write JSON and the sheet where asked."""
    parser = options(__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--fits", type=Path, default=Path("several-tails"))
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--only", choices=EXPERIMENTS)
    arguments = parser.parse_args()
    arguments.fits.mkdir(parents=True, exist_ok=True)
    backbone = hiper.load_backbone("critters")
    bench = Bench(backbone=backbone, herd=animals(arguments.pairs), folder=arguments.fits, sheet=[])
    fit_missing(backbone, [each for animal in bench.herd for each in pictures(animal)], arguments.fits)
    report = {
        name: summary(run(bench)) for name, run in EXPERIMENTS.items() if arguments.only in (None, name)
    }
    how = {"pairs": arguments.pairs, "suite_seed": SUITE_SEED, "fit_steps": STEPS, "drawing": DRAWING}
    finish(arguments.out, {**how, **report})
    if arguments.sheet:
        sheet = contact_sheet(
            bench.sheet, [row for row in ROWS if any(each.row == row for each in bench.sheet)]
        )
        atomic_write(arguments.sheet, png_bytes(sheet), overwrite=True)


ROWS = (
    "averaging, 000, motion",
    "averaging, 001, background",
    "two animals, 000",
    "two animals, 002",
    "subject and style, 000",
    "subject and style, 003",
    "negative, 000",
    "negative, 001",
)
"""What the sheet shows, chosen by number before any was seen."""

if __name__ == "__main__":
    main()
