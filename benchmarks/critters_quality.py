"""How good the embedded model is, on scenes it never saw.

    python -m benchmarks.critters_quality [--count 500] [--training 48000] [--out benchmarks/critters_quality.json]

autoencoder: PSNR of fresh pictures. captions: how often the attribute reader finds what a bare caption names. words:
how often the identity reader finds what a full caption spells out, of what is legible in the world's own picture; words
in the world: the same in the world's pictures of other animals of those words, the most that can be reached.
memory: distance from a sample to the nearest training picture, beside that of a fresh picture of the world.
padding: how far a picture moves when the last tokens alone are another sentence's, beside another seed's picture.
Default sampler, steps and guidance throughout. The reader's own figures come first: nothing is better known than they.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from benchmarks.common import draw, options, write
from PIL import Image
from training.critters.readers import accuracy

import hiper
from hiper.backbones import Backbone
from hiper.conditioning import place_tail, take_tail
from hiper.critters import (
    FIELDS,
    Kind,
    Scene,
    bare_caption,
    draw_scene,
    full_caption,
    load_reader,
    render,
    to_input,
    true_values,
)
from hiper.metrics import picture_distance
from hiper.seeds import generator

FIRST, TAIL = 5 * 10**9, 5
Shares = dict[str, float]


def psnr(backbone: Backbone, pictures: Sequence[Image.Image]) -> float:
    """Mean peak signal-to-noise ratio of the autoencoder in dB, higher is better."""
    values = []
    for picture in pictures:
        (back,) = backbone.decode(backbone.latents(picture, generator(0)))
        error = np.asarray(picture, float) - np.asarray(back, float)
        values.append(10 * np.log10(255**2 / np.square(error).mean()))
    return round(float(np.mean(values)), 2)


def followed(kind: Kind, scenes: Sequence[Scene], pictures: Sequence[Image.Image]) -> Shares:
    """Share of pictures in which each attribute is read as meant, of those where it is legible in the truth."""
    reader = load_reader(kind)
    found = reader.read(pictures)
    legible = reader.read([render(scene) for scene in scenes])
    shares = {}
    for name in FIELDS[kind]:
        hits = [
            mine.values[name] == true_values(scene, kind)[name]
            for mine, world, scene in zip(found, legible, scenes, strict=True)
            if world.legible.get(name) == true_values(scene, kind)[name]
        ]
        shares[name] = round(statistics.mean(hits), 3)
        shares[f"{name} (n)"] = len(hits)
    return shares


def twin(scene: Scene, other: Scene) -> Scene:
    """Another animal in another view, of which a full caption says the same: the marks of `other`, for instance."""
    words = {name: getattr(scene.identity, name) for name in FIELDS["identity"]}
    return replace(scene, identity=replace(other.identity, **words), view=other.view)


def nearest(pictures: Sequence[Image.Image], training: torch.Tensor) -> float:
    """Median root-mean-square distance (0 to 2) to the nearest training picture, at 16 x 16 pixels."""
    distances = torch.cdist(_small(pictures), training).min(1).values / training.shape[1] ** 0.5
    return round(float(distances.median()), 4)


def _small(pictures: Sequence[Image.Image]) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(to_input(pictures), 4).flatten(1)


def padding(backbone: Backbone, captions: Sequence[str], pictures: Sequence[Image.Image]) -> Shares:
    """Mean picture distance (CIE76) after replacing the last token embeddings, the first ones, the noise."""
    own = [backbone.encode(caption) for caption in captions]
    others = [*own[1:], own[0]]
    tails = [place_tail(a, take_tail(b, TAIL), "replace") for a, b in zip(own, others, strict=True)]
    variants = {
        "tail of another caption": draw(backbone, tails),
        "another caption": draw(backbone, others),
        "another seed": draw(backbone, own, first_seed=10**6),
    }
    return {
        name: round(statistics.mean(picture_distance(a, b) for a, b in zip(drawn, pictures, strict=True)), 2)
        for name, drawn in variants.items()
    }


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = options(__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--training", type=int, default=48_000, help="training pictures to search")
    arguments = parser.parse_args()
    count = arguments.count
    backbone = hiper.load_backbone("critters")
    scenes = [draw_scene(FIRST + number) for number in range(count)]
    truths = [render(scene) for scene in scenes]
    report: dict[str, object] = {"count": count}

    def tell(name: str, value: object) -> None:
        report[name] = value
        print(name, json.dumps(value), flush=True)

    for kind in FIELDS:
        tell(f"{kind} reader", {k: round(v, 4) for k, v in accuracy(load_reader(kind), kind, count).items()})
    tell("autoencoder psnr", psnr(backbone, truths))
    bare = draw(backbone, [backbone.encode(bare_caption(scene)) for scene in scenes])
    tell("captions", followed("caption", scenes, bare))
    full = draw(backbone, [backbone.encode(full_caption(scene)) for scene in scenes])
    tell("words", followed("identity", scenes, full))
    twins = [twin(scene, draw_scene(FIRST + count + number)) for number, scene in enumerate(scenes)]
    tell("words in the world", followed("identity", scenes, [render(scene) for scene in twins]))
    tell("captions with words", followed("caption", scenes, full))
    training = torch.cat([_small([render(draw_scene(i))]) for i in range(arguments.training)])
    tell("memory", {"samples": nearest(bare, training), "fresh pictures": nearest(truths, training)})
    some = min(count, 100)
    captions = [bare_caption(scene) for scene in scenes[:some]]
    tell("padding", padding(backbone, captions, bare[:some]))
    write(arguments.out, report)


if __name__ == "__main__":
    main()
