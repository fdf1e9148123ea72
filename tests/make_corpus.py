"""Write the seeds of the fuzzing, one folder per reader: sound files of many kinds, as small as they come.

    python -m tests.make_corpus

`tests/corpus` is its output, kept so that every run starts from the same bytes; a file that once broke a reader
is added there by hand.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms

from hiper.artifacts import Artifact, content_sha256
from hiper.bench.base import Metric
from hiper.bench.records import Run, RunKey
from hiper.files import readable_formats
from hiper.images import png_bytes
from hiper.inference import PictureSettings, text_chunks
from hiper.training import TrainingProgress, TrainingState
from tests import tiny

CORPUS = Path(__file__).parent / "corpus"
SIDE = 64


def main() -> None:
    """Write every seed anew."""
    kinds = {"artifact": artifacts, "checkpoint": checkpoints, "image": images, "import": pickles}
    kinds |= {"suite": suites, "record": records, "settings": settings, "shards": shards, "model": models}
    for kind, make in kinds.items():
        folder = CORPUS / kind
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in make():
            (folder / name).write_bytes(data)


def artifact(**changes: Any) -> Artifact:
    """One of the width of the tiny models."""
    values: dict[str, Any] = {
        "method": "hiper",
        "family": "sd1",
        "backbone": "critters",
        "revision": "",
        "fingerprint": (0.5, -1.25),
        "caption": "a dog",
        "image_sha256": "ab" * 32,
        "seed": 0,
        "options": {"tail": 2, "placement": "replace"},
        "edit": {"strength": 0.8, "guidance_scale": 7.5, "num_inference_steps": 2, "scheduler": "ddim"},
        "tensors": {"tail": torch.linspace(-1, 1, 2 * tiny.EMBED).reshape(2, tiny.EMBED)},
        "figures": {"seconds": 1.5},
        "versions": {"torch": "2.13.0"},
        "created": "2026-01-01T00:00:00+00:00",
        "thumbnail": "",
        "extra": {},
    }
    return Artifact(**{**values, **changes})


def artifacts() -> Iterator[tuple[str, bytes]]:
    yield "sound", artifact().to_bytes()
    yield "other-entries", artifact(extra={"somebody.else": "犬"}, tensors={"a": torch.ones(1, 3)}).to_bytes()
    header = json.dumps({"t": {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]}}).encode()
    yield "foreign", len(header).to_bytes(8, "little") + header + bytes(4)


def checkpoints() -> Iterator[tuple[str, bytes]]:
    start, first, second, best = ({"tail": torch.full((2, 3), value)} for value in (1.0, 0.1, 0.01, 2.0))
    progress = TrainingProgress(step=1, updates=1, halvings=0, loss_before=1.0, best_loss=0.5, seconds=2.0)
    state = TrainingState(
        progress=progress,
        parameters=start,
        first_moments=first,
        second_moments=second,
        best=best,
        random=torch.zeros(16, dtype=torch.uint8),
        identity={"tail": 2, "method": "hiper"},
    )
    yield "sound", state.to_bytes()


def images() -> Iterator[tuple[str, bytes]]:
    rgb = tiny.picture(SIDE).quantize(8).convert("RGB")
    see_through = rgb.copy()
    see_through.putalpha(Image.linear_gradient("L").resize((SIDE, SIDE)))
    turned = Image.Exif()
    turned[274] = 6
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray(np.linspace(0, 65535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE))
    floats = Image.fromarray(np.linspace(0, 1, SIDE * SIDE).astype(np.float32).reshape(SIDE, SIDE))
    two: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90)]}
    yield "rgb.png", encoded(rgb, "PNG")
    yield "rgba-icc.png", encoded(see_through, "PNG", icc_profile=icc)
    yield "palette.png", encoded(rgb.quantize(4), "PNG", transparency=1, exif=turned)
    yield "deep.png", encoded(deep, "PNG")
    yield "moving.png", encoded(rgb, "PNG", **two)
    yield "turned.jpg", encoded(rgb, "JPEG", exif=turned, quality=30)
    yield "progressive.jpg", encoded(rgb, "JPEG", progressive=True, quality=30)
    yield "cmyk.jpg", encoded(rgb.convert("CMYK"), "JPEG", quality=30)
    yield "moving.gif", encoded(rgb, "GIF", **two)
    yield "rgba.webp", encoded(see_through, "WEBP", quality=20)
    yield "moving.webp", encoded(rgb, "WEBP", quality=20, **two)
    yield "lzw.tif", encoded(rgb, "TIFF", compression="tiff_lzw")
    yield "group4.tif", encoded(rgb.convert("1"), "TIFF", compression="group4")
    yield "float.tif", encoded(floats, "TIFF", compression="tiff_deflate")
    yield "rgb.bmp", encoded(rgb.quantize(4), "BMP")
    yield "rgba.avif", encoded(see_through, "AVIF", quality=20, speed=10)
    if "HEIF" in readable_formats():  # asking registers the writer too
        yield "rgb.heic", encoded(rgb, "HEIF", quality=20)
    yield "not.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"


def pickles() -> Iterator[tuple[str, bytes]]:
    rows = torch.ones(1, 5, tiny.EMBED)
    for name, value in {
        "rows": rows,
        "half": rows[0].half(),
        "sparse": rows[0].to_sparse(),
        "lora": {"lora_up.weight": rows},
        "ordered": OrderedDict(a=[1, (2, "x")], b={3}),
        "parameter": torch.nn.Parameter(rows),
    }.items():
        yield f"{name}.pt", saved(value)
    yield "old.pt", saved(rows, _use_new_zipfile_serialization=False)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000))
    yield "deflated.zip", buffer.getvalue()


def suites() -> Iterator[tuple[str, bytes]]:
    pets = """[[subject]]
name = "rex"
image = "rex.png"
mask = "rex.png"
caption = "a dog"
edits = [{ name = "sits", caption = "a sitting dog" }]
[metrics]
"""
    yield "pets.toml", pets.encode()
    yield "nested.toml", b"a.b.c = [[[1979-05-27T07:32:00Z, 0x1f, inf, nan, 1e400]]]\n"


def records() -> Iterator[tuple[str, bytes]]:
    identity = RunKey(
        suite={"suite": "s"}, backbone="critters", weights_sha256="ab", device="cpu", dtype="float32", seed=0
    )
    metric = Metric(text="distance", better="lower", unit="levels", low=0, high=None)
    run = Run(
        identity=identity,
        metrics={"d": metric},
        arms={"none": {"steps": 2}},
        slugs={"none": "none"},
        subjects={"rex": ["sits"]},
        seeds=1,
    )
    yield "run.json", json.dumps({"schema": 1, **asdict(run)}).encode()


def settings() -> Iterator[tuple[str, bytes]]:
    learnt = artifact()
    drawn = PictureSettings(
        prompt="a dog",
        seed=0,
        batch=(0,),
        strength=0.8,
        guidance_scale=7.5,
        num_inference_steps=2,
        scheduler="ddim",
        height=8,
        width=8,
        keep=0.0,
        negative_prompt=("",),
        backbone="critters",
        revision="",
        device="cpu",
        dtype="float32",
        quantised="",
        method="hiper",
        family="sd1",
        caption="a dog",
        artifact_sha256=content_sha256(learnt),
        versions={"hiper": "0.1.0"},
    )
    chunks = text_chunks(drawn, learnt)
    yield "drawn.png", png_bytes(tiny.picture(8), metadata=chunks)
    yield "chunks.json", json.dumps(chunks).encode()


def models() -> Iterator[tuple[str, bytes]]:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    yield "model_index.json", json.dumps(index).encode()
    name = "model.diffusion_model.input_blocks.0.0.weight"
    header = json.dumps({name: {"dtype": "F16", "shape": [1, 4], "data_offsets": [0, 8]}}).encode()
    yield "single.safetensors", len(header).to_bytes(8, "little") + header + bytes(8)


def shards() -> Iterator[tuple[str, bytes]]:
    yield (
        "table.json",
        json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": "a.safetensors"}}).encode(),
    )


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
