"""A real suite in miniature: three squares, each in a colour of its own, that move or turn dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import final

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from hiper.bench import Case, Suite
from hiper.bench.base import Metric, Scores, Truth

COLOURS = {"ann": (220, 30, 30), "ben": (30, 200, 30), "cy": (40, 60, 220)}
EDITS = ("moved", "dark")
SIDE = 64
NAME = "squares"
METRICS = {
    "distance": Metric(text="pixels, to the true answer", better="lower", unit="levels", low=0, high=255),
    "colour": Metric(text="<b>the</b> square's colour", better="higher", unit="share", low=0, high=1),
}


@final
class SmallSuite(Suite):
    """The metric `colour` says nothing of dark pictures."""

    def __init__(self, *, split: str, seed: int) -> None:
        self._split, self._seed = split, seed

    def identity(self) -> Mapping[str, str | int]:
        return {"suite": NAME, "split": self._split, "seed": self._seed}

    def subjects(self) -> Sequence[str]:
        return list(COLOURS)

    def cases(self, subject: str) -> Sequence[Case]:
        return [
            Case(
                subject=subject,
                edit=edit,
                source=square(subject, SIDE // 8),
                source_caption="a standing dog <script>alert(1)</script>",
                target_caption="a jumping dog" if edit == "moved" else "a dog on the grass",
                mask=None,
                other_captions={"vague": "a dog"},
                truth=Truth(
                    image=answer(subject, edit),
                    mask=Image.new("L", (SIDE, SIDE), 255),
                    source_mask=Image.new("L", (SIDE, SIDE), 255),
                    spelled_out=f"a {subject} dog",
                ),
            )
            for edit in EDITS
        ]

    def metrics(self) -> Mapping[str, Metric]:
        return METRICS

    def score(self, case: Case, picture: Image.Image) -> Scores:
        given, wanted = pixels(picture), pixels(answer(case.subject, case.edit).resize(picture.size))
        primary = COLOURS[case.subject].index(max(COLOURS[case.subject]))
        colour = float((given.argmax(-1) == primary).mean()) if case.edit == "moved" else None
        return {"distance": float(np.abs(given - wanted).mean()), "colour": colour}


def square(subject: str, left: int) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    image.paste(COLOURS[subject], (left, SIDE // 4, left + SIDE // 2, 3 * SIDE // 4))
    return image


def answer(subject: str, edit: str) -> Image.Image:
    if edit == "moved":
        return square(subject, SIDE // 3)
    return ImageEnhance.Brightness(square(subject, SIDE // 8)).enhance(0.5)


def pixels(picture: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(picture, np.float64)


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Let hiper find the suite by its name, as that of another package; also in processes started meanwhile."""
    distribution = folder / "squares-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text(f"[hiper.suites]\n{NAME} = tests.small_suite:SmallSuite\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
