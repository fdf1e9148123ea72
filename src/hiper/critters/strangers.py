"""Warnings of pictures and words that the embedded model does not know, before time is spent on them."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hiper.backbones import EMBEDDED, embedded_folder
from hiper.critters.captions import word_notes
from hiper.critters.reader import load_reader
from hiper.errors import HiperWarning
from hiper.images import Subject, fit_square

ELSEWHERE = (
    "this does not look like the cartoon animals that the embedded model draws;"
    " for a photograph use --backbone NAME (load_backbone in Python), a Stable Diffusion checkpoint"
)
THRESHOLD = 34.5
"""Least `likeness` of a picture of the world: rendered ones, also under noise of 20 levels, a pixel's blur, JPEG of
quality 20 and other brightness, have 35.9 and more; nine of 10 photographs have less."""

_CELLS = 16
_PLAIN, _FITTED, _DOUBT = 0.4, 0.6, 4.0


def tell_of_strangers(subject: Subject, backbone: str) -> None:
    """Warn (HiperWarning) of a picture or a caption from outside its world, if the embedded model is to learn it."""
    for note in [*picture_notes(subject.image, backbone), *word_notes(subject.caption, "caption", backbone)]:
        warnings.warn(note, HiperWarning, stacklevel=3)


def picture_notes(picture: Image.Image, backbone: str) -> list[str]:
    """Return notes on an RGB picture from outside the world that the embedded model is to learn."""
    return [ELSEWHERE] if backbone in EMBEDDED and likeness(picture) < THRESHOLD else []


@torch.no_grad()
def likeness(picture: Image.Image) -> float:
    """Return how much a picture resembles those of the world, in decibel.

    The peak signal-to-noise ratio of what the embedded autoencoder makes of it, over 16 x 16 cells, which leaves noise
    and JPEG's marks out: as it is, and with the gain and offset of each channel that fit best, which leave brightness
    out. Less 4 dB for each e-fold of the attribute reader's doubts.
    """
    autoencoder = _autoencoder()
    side = int(autoencoder.config.sample_size)
    square = fit_square(picture.convert("RGB"), side)
    x = torch.from_numpy(np.array(square, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    y = autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    given, made = (F.avg_pool2d(each, side // _CELLS)[0].flatten(1) for each in (x, y))
    sure = load_reader("caption").read([square])[0].certainty.values()
    doubt = float(np.log(list(sure)).sum())
    return _PLAIN * _decibel(given - made) + _FITTED * _decibel(_unfitted(given, made)) + _DOUBT * doubt


def _unfitted(given: Tensor, made: Tensor) -> Tensor:
    """What is left of `given` [channels, cells] when a gain and an offset per channel have brought `made` nearest."""
    given, made = (each - each.mean(1, keepdim=True) for each in (given, made))
    gain = (given * made).sum(1, keepdim=True) / made.square().sum(1, keepdim=True).clamp(min=1e-9)
    return given - gain * made


def _decibel(error: Tensor) -> float:
    """Peak signal-to-noise ratio of an error, levels being in [-1, 1]."""
    return float(10 * np.log10(4 / max(float(error.square().mean()), 1e-9)))


@cache
def _autoencoder() -> Any:
    from hiper.backbones import load_autoencoder  # which takes seconds

    (name,) = EMBEDDED
    return load_autoencoder(embedded_folder(name) / "vae")
