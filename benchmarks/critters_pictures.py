"""Draw the pictures of the documentation from the version at hand.

    python -m benchmarks.critters_pictures [--out docs/images]

world.png: scenes as the world draws them. samples.png: what the embedded model draws for bare captions of unseen
scenes (the caption under each). words.png: the same with the identity spelled out, beside the world's own picture.
demo.png: the contact sheet of `hiper demo`. attention.png: where its source looks at each text row. keep.png: for each
edit of the demo the source, the true answer, a new picture, FlowEdit without the tail, and an edit that keeps the rest.
into.png: the demo's animal in the place of others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import draw
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import hiper
from hiper.analysis import EDITS, UNSEEN, demo_scene, run_demo
from hiper.analysis.attention import row_maps, study_picture
from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.critters import bare_caption, draw_scene, full_caption, render, subject_mask

CELL, LABEL = 128, 34


def drawn(backbone: Backbone, captions: Sequence[str]) -> list[Image.Image]:
    """One picture per caption in 50 steps of DDIM; seed i for caption i."""
    sentences = [backbone.encode(caption) for caption in captions]
    return draw(backbone, sentences, num_inference_steps=50, scheduler="ddim")


def grid(pictures: Sequence[Image.Image], columns: int, labels: Sequence[str] = ()) -> Image.Image:
    """Pictures enlarged to 128 pixels in rows of `columns`, each with a wrapped label where given."""
    height = CELL + (LABEL if labels else 0)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * CELL, rows * height), "white")
    text, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for number, picture in enumerate(pictures):
        x, y = number % columns * CELL, number // columns * height
        sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y))
        if labels:
            words, lines = labels[number].split(), [""]
            for word in words:
                lines += [""] if len(lines[-1]) + len(word) > 24 else []
                lines[-1] += word + " "
            text.multiline_text((x + 2, y + CELL + 1), "\n".join(lines[:3]), "black", font, spacing=0)
    return sheet


def attention_picture(backbone: Backbone, tail: Artifact) -> Image.Image:
    """The demo's source, and one heat map per word and per row of its tail."""
    scene = demo_scene(0)
    source = render(scene, backbone.resolution)
    maps = row_maps(study_picture(backbone, tail, source, mask=subject_mask(scene, backbone.resolution)))
    return grid([source, *maps.values()], 5, ["source", *maps])


def keeping(backbone: Backbone, tail: Artifact) -> Image.Image:
    """The demo's edits, a row each: source, true answer, a new picture, FlowEdit without the tail, and kept."""
    scene = demo_scene(0)
    pictures, labels = [], []
    for _, change in EDITS:
        truth = scene.edited(**change)
        sentence = bare_caption(truth)
        settings: tuple[dict[str, Any], ...] = ({"keep": 0.0}, {"keep": 0.5, "strength": 0.0}, {"keep": 0.5})
        edits = [hiper.edit(backbone, tail, sentence, **each).images[0] for each in settings]
        pictures += [render(scene, backbone.resolution), render(truth, backbone.resolution), *edits]
        labels += [
            "source",
            "true answer",
            f"new picture: {sentence}",
            "FlowEdit without the tail",
            "hiper, keep 0.5",
        ]
    return grid(pictures, 5, labels)


def into(backbone: Backbone, tail: Artifact) -> Image.Image:
    """Put the demo's animal in the place of others: source, their picture, the region, the result, the true answer."""
    scene, pictures, labels = demo_scene(0), [], []
    for seed in (3, 5, 8):
        other = draw_scene(UNSEEN + 100 + seed)
        truth = scene.edited(pose=other.pose, background=other.background, style=other.style)
        room, region = render(other, backbone.resolution), subject_mask(other, backbone.resolution)
        region = region.filter(ImageFilter.MaxFilter(9))
        result = hiper.edit(
            backbone, tail, bare_caption(truth), into=room, into_caption=bare_caption(other), region=region
        )
        pictures += [render(scene, backbone.resolution), room, region.convert("RGB"), result.images[0]]
        pictures.append(render(truth, backbone.resolution))
        labels += ["subject", "another picture", "region", bare_caption(truth), "true answer"]
    return grid(pictures, 5, labels)


def main() -> None:
    """Write the seven pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    backbone = hiper.load_backbone("critters")
    scenes = [draw_scene(UNSEEN + seed) for seed in range(40)]
    grid([render(scene) for scene in scenes], 8).save(out / "world.png")
    captions = [bare_caption(scene) for scene in scenes[:32]]
    grid(drawn(backbone, captions), 8, captions).save(out / "samples.png")
    spelled = [full_caption(scene) for scene in scenes[:8]]
    truths = [render(scene) for scene in scenes[:8]]
    grid([*truths, *drawn(backbone, spelled)], 8, [*[""] * 8, *spelled]).save(out / "words.png")
    with TemporaryDirectory() as name:
        sheet = run_demo(Path(name), seed=0, overwrite=True, progress=lambda *_: None).sheet
        (out / "demo.png").write_bytes(sheet.read_bytes())
        tail = Artifact.load(Path(name) / "tail.safetensors")
        attention_picture(backbone, tail).save(out / "attention.png")
        keeping(backbone, tail).save(out / "keep.png")
        into(backbone, tail).save(out / "into.png")


if __name__ == "__main__":
    main()
