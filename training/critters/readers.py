"""Train the attribute readers, on rendered pictures only, and say how often they are right on fresh ones.

    python -m training.critters.readers --out DIR [--steps N] [--device cuda]

Everything lands in DIR: the pictures (shared with the model's training when DIR is the same), a checkpoint per reader,
and ``readers/caption.safetensors`` and ``readers/identity.safetensors``. It goes on after a kill as the model's does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from training.critters.data import Pictures, pictures
from training.critters.loop import mixed_precision, train
from training.critters.recipe import Recipe

from hiper.critters import (
    FIELDS,
    READING_SIZE,
    AttributeReader,
    Kind,
    Scene,
    draw_scene,
    render,
    to_input,
    true_values,
)

BATCH, RATE, STEPS = 64, 2e-3, 6000
FRESH = 4 * 10**9
"""First seed of the pictures a reader is examined on."""


def labels(scenes: list[Scene], kind: Kind) -> dict[str, Tensor]:
    """Attribute -> [scenes] index of the true value."""
    return {
        name: torch.tensor([values.index(true_values(scene, kind)[name]) for scene in scenes])
        for name, values in FIELDS[kind].items()
    }


def mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn half of a batch [batch, channels, height, width] round: the other side of an animal is the same animal."""
    turned = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    return torch.where(turned, x.flip(-1), x)


def blurred(x: Tensor, generator: torch.Generator) -> Tensor:
    """Soften and grain a batch [batch, 3, height, width]: what is read later comes out of an autoencoder."""
    side = int(torch.randint(READING_SIZE // 2, READING_SIZE + 1, (1,), generator=generator))
    soft = F.interpolate(F.interpolate(x, side, mode="area"), READING_SIZE, mode="bilinear")
    share = torch.rand(len(x), 1, 1, 1, generator=generator)
    grain = torch.rand(len(x), 1, 1, 1, generator=generator) * 0.08
    return torch.lerp(x, soft, share) + grain * torch.randn(x.shape, generator=generator)


def train_reader(
    kind: Kind, images: Pictures, folder: Path, device: torch.device, steps: int
) -> AttributeReader:
    """Cross-entropy over all attributes of a kind; pictures [count, 64, 64, 3] are those of the scenes 0, 1, ..."""
    torch.manual_seed(0)
    reader = AttributeReader(kind).to(device)
    truth = labels([draw_scene(seed) for seed in range(len(images))], kind)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(images), (BATCH,), generator=generator).sort().values
        x = torch.from_numpy(images[index.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = blurred(mirrored(x, generator), generator).to(device)
        with mixed_precision(device):
            logits = reader(x)
        parts = [F.cross_entropy(logits[name].float(), truth[name][index].to(device)) for name in logits]
        return torch.stack(parts).sum()

    train(f"{kind}-reader", reader, loss, steps=steps, rate=RATE, seed=7, folder=folder)
    return reader.eval().requires_grad_(False)


def accuracy(reader: AttributeReader, kind: Kind, count: int, first: int = FRESH) -> dict[str, float]:
    """Share of fresh renders read right, per attribute, 0 to 1."""
    right = dict.fromkeys(FIELDS[kind], 0)
    for chunk in _chunks(count, first):
        found = reader(to_input([render(scene) for scene in chunk]))
        for name, values in labels(chunk, kind).items():
            right[name] += int((found[name].argmax(-1) == values).sum())
    return {name: hits / count for name, hits in right.items()}


def _chunks(count: int, first: int) -> Iterator[list[Scene]]:
    for start in range(0, count, 100):
        yield [draw_scene(first + i) for i in range(start, min(start + 100, count))]


def main() -> None:
    """Train both readers, save them in float16, and print how often they are right."""
    parser = argparse.ArgumentParser(prog="python -m training.critters.readers")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    folder: Path = arguments.out
    (folder / "readers").mkdir(parents=True, exist_ok=True)
    images = pictures(folder, Recipe().scenes)
    for kind in FIELDS:
        reader = train_reader(kind, images, folder, torch.device(arguments.device), arguments.steps).cpu()
        save_file(
            {name: tensor.half().contiguous() for name, tensor in reader.state_dict().items()},
            folder / "readers" / f"{kind}.safetensors",
        )
        print(kind, accuracy(reader, kind, 2000), flush=True)


if __name__ == "__main__":
    main()
