"""The interface between a method and a text-to-image model.

A backbone hides parametrisation (epsilon, v), latent scale, the convention of time and the library
behind it. A method sees text rows, latents and a mean squared error, and nothing else.

Axis names: batch, channels, height, width (pixels), h, w (latent), length (text rows), embed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import PIL.Image
import torch
from torch import Tensor

from hiper.conditioning import Conditioning
from hiper.errors import OptionError
from hiper.nearest import suggestion

Scheduler = Literal["ddim", "dpm++", "unipc", "euler", "pndm"]

StepCallback = Callable[[int, int], None]
"""Called after each denoising step with (steps done, steps in all)."""


def check_scheduler(name: str) -> None:
    """OptionError, with the nearest name, for a sampler that is not a `Scheduler`."""
    names = get_args(Scheduler)
    if name not in names:
        raise OptionError(f"scheduler is {name!r}; allowed are {', '.join(names)}{suggestion(name, names)}")


@dataclass(frozen=True, kw_only=True)
class Diffused:
    """Latents on their way to noise, and what the model should say of them: [batch, c, h, w], float32."""

    noisy: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Pictures in the order of their seeds; `flagged[i]`: the model's safety checker blackened picture i."""

    images: list[PIL.Image.Image]
    flagged: tuple[bool, ...]


class Backbone(ABC):
    """A frozen text-to-image model. Subclasses are final and fill in every attribute below.

    id:               what the user called it: a name, a folder, a file or a Hub id
    revision:         commit of a Hub model, else ""
    family:           models that may share artifacts, given equal `embed`
    length, embed:    the text encoder's table of rows
    latent_shape:     (channels, h, w) of a picture at the native resolution
    resolution:       native side of a picture in pixels
    objective:        what the denoiser says of noisy latents: "epsilon" (the noise) or "v_prediction"
    timesteps:        number of noise levels; 0 is the cleanest, timesteps - 1 all but pure noise
    default_guidance: guidance scale that suits the model
    offers:           what a method may ask for in its `needs`
    """

    id: str
    revision: str
    family: str
    device: torch.device
    dtype: torch.dtype
    length: int
    embed: int
    latent_shape: tuple[int, int, int]
    resolution: int
    objective: str
    timesteps: int
    default_guidance: float
    offers: ClassVar[frozenset[str]] = frozenset({"rows"})

    @abstractmethod
    def encode(self, prompt: str) -> Conditioning:
        """Encode one sentence, without gradient; rows [1, length, embed], float32, on the device."""

    @abstractmethod
    def latents(self, image: PIL.Image.Image, generator: torch.Generator) -> Tensor:
        """Encode an RGB picture whose sides are multiples of 8 pixels.

        Returns [1, c, h, w], float32: one draw from the encoder's posterior, in the model's latent scale.
        BackboneError when the encoder overflows in half precision.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> list[PIL.Image.Image]:
        """Decode latents [batch, c, h, w] in the model's latent scale into pictures."""

    @abstractmethod
    def diffuse(self, latents: Tensor, noise: Tensor, t: Tensor) -> Diffused:
        """Bring latents [1 or batch, c, h, w] to the noise levels t [batch], each in 0 .. timesteps - 1."""

    @abstractmethod
    def predict(self, noisy: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Run the denoiser once; [batch, c, h, w], float32, to be compared with `Diffused.target`.

        rows: [batch, length, embed]; the only input that gradients flow to.
        """

    @abstractmethod
    def sample(
        self,
        positive: Tensor,
        negative: Tensor,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        scheduler: str,
        height: int,
        width: int,
        callback: StepCallback | None = None,
    ) -> Samples:
        """Draw one picture per seed in one batch, by classifier-free guidance.

        positive, negative: [1 or batch, length, embed]; steps: 1 .. timesteps; guidance: 1 switches the
        negative rows off; height, width: pixels, multiples of 8. Picture i depends on its own seed only.
        """

    @abstractmethod
    def fitting(self) -> AbstractContextManager[None]:
        """Ready the model for a fit: no weight asks for a gradient, and all but the denoiser leaves memory.

        On leaving, also by an exception, everything is again what it was, bit for bit.
        """

    @abstractmethod
    def fingerprint(self) -> tuple[float, ...]:
        """Return 256 evenly spaced weights of denoiser and text encoder, to tell checkpoints apart.

        A change of dtype moves them by less than 0.004 in relative root mean square.
        """

    @abstractmethod
    def weights_sha256(self) -> str:
        """Hash every weight and buffer of every component, in hexadecimal."""
