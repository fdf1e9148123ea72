"""What the scripts of this folder share: command line, clock, result file, subject."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import hiper
from hiper.analysis import demo_scene
from hiper.backbones import Backbone
from hiper.conditioning import Conditioning, stacked
from hiper.critters import bare_caption, render
from hiper.files import atomic_write

BATCH = 20
"""Pictures drawn at a time."""


def options(doc: str | None, *, out: Path | None = None) -> argparse.ArgumentParser:
    """Return a parser described by a docstring's first line, with `--out` for the result."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=out, help="write the result as JSON")
    return parser


def write(out: Path | None, record: object) -> None:
    """Write all of a result, or nothing; None writes nothing."""
    if out is not None:
        atomic_write(out, f"{json.dumps(record, indent=1)}\n".encode(), overwrite=True)


def finish(out: Path | None, record: object) -> None:
    """Print a result, and write it where asked."""
    print(json.dumps(record, indent=1))
    write(out, record)


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Do it once; elapsed and processor seconds."""
    begun, used = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - begun, "processor_seconds": time.process_time() - used}


def animal(number: int = 0) -> hiper.Subject:
    """Return an animal that no training saw, with its caption."""
    scene = demo_scene(number)
    return hiper.Subject.from_image(render(scene), caption=bare_caption(scene))


def sitting(number: int = 0) -> str:
    """Return the sentence by which the animal sits."""
    return bare_caption(demo_scene(number).edited(pose="sitting"))


def draw(
    backbone: Backbone, sentences: Sequence[Conditioning], *, first_seed: int = 0, **changed: Any
) -> list[Image.Image]:
    """Draw a picture per sentence, seeds counted from `first_seed`; changed: settings that are not the model's own."""
    settings = backbone.sampling_settings(**changed)
    negatives, pictures = [backbone.encode_negative("")], []
    for start in range(0, len(sentences), BATCH):
        batch = sentences[start : start + BATCH]
        seeds = range(first_seed + start, first_seed + start + len(batch))
        pictures += backbone.sample(stacked(batch), negatives, settings, seeds=seeds).images
    return pictures
