"""Fourteen checkpoints at full size on a GPU that is not there: that they run, and what they ask of a GPU.

    python -m benchmarks.full_size [--models SDXL "FLUX.1 dev"] [--dtype bfloat16] [--memory auto] [--out FILE.json]

The models have their published sizes and no numbers, so nothing is downloaded, no memory is needed and every device,
dtype and shape is checked (`benchmarks.fake_gpu`). Each is loaded, encodes a sentence and a picture, makes one step of
a fit at its native size and draws one picture. A minute per model or less; what `--out` has of other models is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import options, write
from benchmarks.fake_gpu import Kernels, fake_gpu
from benchmarks.full_size_models import MODELS, as_loaded
from PIL import Image
from torch import nn

from hiper.analysis import counting
from hiper.backbones import Loading, backbone_class
from hiper.images import Subject
from hiper.methods import HiPer
from hiper.seeds import generator
from hiper.training import Adam

OUT = Path(__file__).with_suffix(".json")
LARGE = 2**16
CAPTION, SENTENCE = "a standing dog", "a red dog on the grass"
EDIT_STEPS = 2


def measured(gpu: Kernels, work: Callable[[], object]) -> dict[str, Any]:
    """Do it and return what it asks of the GPU; gigabytes are 2^30 bytes."""
    gpu.clear()
    with counting() as counter:
        work()
    counted = counter.work()
    return {
        "tflop": round(counted.flops / 1e12, 2),
        "gib_moved": round(counted.moved / 2**30, 1),
        "peak_gib": round(counted.peak / 2**30, 2),
        "kernels": gpu.kernels,
        "syncs": dict(gpu.syncs),
    }


def sizes(pipe: Any) -> dict[str, int]:
    """Return the bytes of each component's weights and buffers."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return {
        name: sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers()))
        for name, part in sorted(parts.items())
    }


def report(name: str, dtype: torch.dtype, memory: str) -> dict[str, Any]:
    """Run one checkpoint through a step of a fit and an edit."""
    begun = time.perf_counter()
    with fake_gpu(LARGE) as gpu:
        pipe = as_loaded(MODELS[name](), dtype)
        weights = sizes(pipe)
        texts = sum(size for part, size in weights.items() if part.startswith("text_encoder"))
        how = Loading(device=torch.device("cuda", 0), dtype=dtype, memory=memory, recompute=memory == "low")
        kind = backbone_class(type(pipe).__name__, name)
        backbone = kind._resolved(pipe, how.resolved(texts), name=name, revision="", guidance_scale=None)
        picture = Image.new("RGB", (backbone.resolution,) * 2, "red")
        sentence = backbone.encode(CAPTION)
        found = {
            "weights_gib": {part: round(size / 2**30, 2) for part, size in weights.items()},
            "takes_turns": backbone.takes_turns,
            "resolution": backbone.resolution,
            "rows": list(sentence.token_embeddings.shape),
            "latents": list(backbone.latents(picture, generator(0)).shape),
            "fit step": fit_step(gpu, backbone, picture),
            "edit step": edit_step(gpu, backbone),
        }
    assert found["latents"][1:] == list(backbone.latent_shape)
    return {**found, "seconds": round(time.perf_counter() - begun, 1)}


def fit_step(gpu: Kernels, backbone: Any, picture: Image.Image) -> dict[str, Any]:
    """One step of the paper's recipe after one that is not counted: one timestep, forward, back and update."""
    method = HiPer()
    subject = Subject.from_image(picture, caption=CAPTION)
    task = method.prepare(backbone, subject, method.resolve(method.options("published"), backbone, subject))
    adam = Adam(task.parameters, task.config.learning_rate)

    def step() -> None:
        loss = task.objective.loss(task.parameters, task.generator)
        (loss * task.config.loss_scale).backward()  # type: ignore[no-untyped-call]
        adam.update(task.config.loss_scale)

    with backbone.training_mode():
        step()
        return measured(gpu, step)


def edit_step(gpu: Kernels, backbone: Any) -> dict[str, Any]:
    """One picture of a few steps, decoded, with guidance as it suits the model; the sums are of all of it."""
    positive, negative = backbone.encode(SENTENCE), backbone.encode_negative("")
    backbone.denoiser  # noqa: B018  # comes to the GPU where it takes turns with the text encoders
    return measured(
        gpu,
        lambda: backbone.sample(
            positive, [negative], backbone.sampling_settings(num_inference_steps=EDIT_STEPS), seeds=[0]
        ),
    )


def read(path: Path) -> dict[str, Any]:
    """Return what is known of each model."""
    models: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["models"]
    return models


def main() -> None:
    """Run the models that are asked for; write the JSON after each of them."""
    parser = options(__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="NAME")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--memory", choices=("auto", "balanced", "low"), default="auto")
    given = parser.parse_args()
    record = {"torch": torch.__version__, "dtype": given.dtype, "memory": given.memory}
    models: dict[str, Any] = {}
    if given.out and given.out.is_file():
        models = read(given.out)
        before = {name: value for name, value in json.loads(given.out.read_text()).items() if name in record}
        if before != record:
            parser.error(
                f"{given.out} has figures of {before}; they do not go with {record}; name another --out"
            )
    for name in given.models:
        models[name] = report(name, getattr(torch, given.dtype), given.memory)
        print(name, json.dumps(models[name]), flush=True)
        ordered = {each: models[each] for each in MODELS if each in models}
        write(given.out, {**record, "models": ordered})


if __name__ == "__main__":
    main()
