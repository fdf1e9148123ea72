"""Attribute readers: two small classifiers of pictures of the world.

They score edits, so they are trained on rendered pictures alone, and on nothing that a model generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from hiper.critters import world
from hiper.critters.world import Scene

Kind = Literal["caption", "identity"]
FIELDS: Mapping[Kind, Mapping[str, tuple[str, ...]]] = {
    "caption": {
        "species": world.SPECIES,
        "pose": world.POSES,
        "background": world.BACKGROUNDS,
        "style": world.STYLES,
    },
    "identity": {
        "primary": tuple(world.COLOURS),
        "secondary": tuple(world.COLOURS),
        "pattern": world.PATTERNS,
        "collar": world.COLLARS,
        "eyes": world.EYES,
    },
}
READING_SIZE = 64
"""Side in pixels to which a picture is brought before it is read."""
CHANNELS = (24, 48, 96)
LEGIBLE = 0.8
"""Certainty from which a reading counts as seen: one animal in four has the eyes that a guess would say."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read in a picture.

    Attributes:
        values: Attribute to value.
        certainty: Attribute to the probability of that value, 0 to 1.
    """

    values: Mapping[str, str]
    certainty: Mapping[str, float]

    @property
    def legible(self) -> dict[str, str]:
        """The values that were read with a certainty of `LEGIBLE` or more."""
        return {name: value for name, value in self.values.items() if self.certainty[name] >= LEGIBLE}


@final
class AttributeReader(nn.Module):
    """A residual network of three stages with one linear head per attribute: [batch, 3, 64, 64] to logits."""

    def __init__(self, kind: Kind, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        self.fields = FIELDS[kind]
        before = (3, *channels[:-1])
        self.stages = nn.ModuleList(_Stage(a, b) for a, b in zip(before, channels, strict=True))
        # Where things are matters (a collar, a pose), so the last map is flattened at 4 x 4, not averaged away.
        features = channels[-1] * 16
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(of)) for name, of in self.fields.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return logits [batch, values] of each field for pictures [batch, 3, height, width]."""
        for stage in self.stages:
            x = stage(x)
        flat = F.adaptive_avg_pool2d(x, 4).flatten(1)
        return {name: head(flat) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures: Sequence[Image.Image]) -> list[Reading]:
        """Read pictures of any size, one `Reading` each."""
        logits = self(to_input(pictures))
        sure = {name: each.softmax(-1).max(-1) for name, each in logits.items()}
        return [
            Reading(
                values={name: self.fields[name][int(best.indices[i])] for name, best in sure.items()},
                certainty={name: float(best.values[i]) for name, best in sure.items()},
            )
            for i in range(len(pictures))
        ]


class _Stage(nn.Module):
    """Halve the side, then one residual block."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(before, after, 4, stride=2, padding=1)
        self.first = nn.Conv2d(after, after, 3, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, after) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norms[0](self.down(x)))
        inner = F.silu(self.norms[1](self.first(x)))
        return F.silu(x + self.norms[2](self.second(inner)))


def to_input(pictures: Sequence[Image.Image]) -> Tensor:
    """Return pictures of any size as [batch, 3, 64, 64] in [-1, 1]."""
    arrays = [
        np.asarray(picture.convert("RGB").resize((READING_SIZE, READING_SIZE), Image.Resampling.BOX))
        for picture in pictures
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def true_values(scene: Scene, kind: Kind) -> dict[str, str]:
    """Return what a reader should find in a picture of the scene."""
    holder = scene if kind == "caption" else scene.identity
    return {name: str(getattr(holder, name)) for name in FIELDS[kind]}


def load_reader(kind: Kind) -> AttributeReader:
    """Load a reader that is part of the package."""
    reader = AttributeReader(kind)
    weights = load_file(Path(str(files("hiper"))) / "critters" / "readers" / f"{kind}.safetensors")
    reader.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return reader.eval().requires_grad_(False)
