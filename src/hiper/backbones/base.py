"""The interface between a method and a text-to-image model.

A backbone hides parametrisation (epsilon, v, flow), latent scale, the convention of time and the library
behind it. A method sees token embeddings, latents and a mean squared error, and nothing else.

Axis names: batch, channels, height, width (pixels), h, w (latent), length (tokens), embed_dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import PIL.Image
import torch
from torch import Tensor, nn

from hiper.backbones.contents import hashes
from hiper.backbones.tail_encoder import TailEncoder
from hiper.conditioning import Conditioning, Placement
from hiper.errors import OptionError
from hiper.options import Key, digest, is_deterministic, suggestion, versions

Scheduler = Literal[
    "ddim", "dpm++", "dpm++-karras", "unipc", "unipc-karras", "euler", "pndm", "lcm", "flow-euler"
]
UNET_SCHEDULERS: tuple[Scheduler, ...] = (
    "ddim",
    "dpm++",
    "dpm++-karras",
    "unipc",
    "unipc-karras",
    "euler",
    "pndm",
)
FLOW_SCHEDULERS: tuple[Scheduler, ...] = ("flow-euler",)

_DECIDING = (
    *("family", "objective", "timesteps", "latent_shape", "resolution", "placement", "dtype", "quantised"),
    *("default_guidance", "default_steps", "schedulers"),
)
"""Attributes of a backbone that are part of its key; the defaults count where a job leaves them to the model."""

StepCallback = Callable[[int, int], None]
"""Called after each denoising step with (steps done, steps in all)."""


def check_scheduler(name: str, names: Sequence[str] = get_args(Scheduler)) -> None:
    """OptionError, with the nearest name, for a sampler that is none of `names`."""
    if name not in names:
        raise OptionError(f"scheduler is {name!r}; allowed are {', '.join(names)}{suggestion(name, names)}")


@dataclass(frozen=True, kw_only=True)
class NoisySample:
    """Latents on their way to noise, and what the model should say of them: [batch, c, h, w], float32."""

    noisy: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class AttentionProbabilities:
    """How one cross-attention layer, in one call, spreads its attention over the tokens.

    layer: the library's name of it; probabilities: [batch, heads, cells, length], float32, rows sum to 1, where
    cells are those of the layer's own h x w, row by row. Under guidance the batch's first half is the negative's.
    """

    layer: str
    probabilities: Tensor


AttentionCallback = Callable[[AttentionProbabilities], None]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Pictures in the order of their seeds; `flagged[i]`: the model's safety checker blackened picture i."""

    images: list[PIL.Image.Image]
    flagged: tuple[bool, ...]


FAR = 2
"""How many times the native picture's area, or side, is far above it; a fourth of the area is far below."""


class Backbone(ABC):
    """A frozen text-to-image model. Subclasses are final and fill in every attribute below.

    id:               what the user called it: a name, a folder, a file or a Hub id
    revision:         commit of a Hub model, else ""
    family:           models that may share artifacts, given equal `embed_dim`
    max_length, embed_dim: of the text encoder's output; of the longest sentence where the length varies
    placement:        where a tail goes by default
    latent_shape:     (channels, h, w) of a picture at the native resolution
    resolution:       native side of a picture in pixels
    native_resolution: side that it was trained on where `resize` took another; None: `resolution`
    objective:        what the denoiser says of noisy latents: "epsilon" (the noise), "v_prediction" or "flow"
    timesteps:        number of noise levels; 0 is the cleanest, timesteps - 1 all but pure noise
    default_guidance: guidance scale that suits the model
    default_steps:    denoising steps that suit the model, with the first of its `schedulers`
    schedulers:       samplers that can draw with it, the one that suits it first
    uses_negative_prompt: whether sampling under guidance uses the negative prompt; guidance-distilled models do not
    uses_guidance:    whether sampling uses the guidance scale
    size_multiple:    what a picture's sides are multiples of, in pixels
    quantised:        how the denoiser's weights are packed, "nf4" or "int8"; "" where they are not
    denoiser_name:    the library's name of the denoiser, by which others load what belongs to it
    tail_encoder:     guesses a tail from a picture's latents, where the model's folder has one
    takes_turns:      text encoders and all the rest are never in the device's memory together
    capabilities:     what a method may ask for in its `requires`:
                      "rows" (all), "trajectory" (`step` goes up and down between noise levels), "vocabulary"
                      (`encode_with_token_embeddings`), "weights" (those of `denoiser` may be swapped), "lora" (the
                      denoiser takes peft's adapters)
    """

    id: str
    revision: str
    family: str
    device: torch.device
    dtype: torch.dtype
    max_length: int
    embed_dim: int
    latent_shape: tuple[int, int, int]
    resolution: int
    native_resolution: int | None = None
    objective: str
    timesteps: int
    default_guidance: float
    default_steps: int = 50
    schedulers: tuple[Scheduler, ...]
    uses_negative_prompt: bool = True
    uses_guidance: bool = True
    size_multiple: int = 8
    placement: Placement = "replace"
    quantised: str = ""
    tail_encoder: TailEncoder | None = None
    denoiser_name: ClassVar[str]
    capabilities: frozenset[str] = frozenset({"rows"})

    def size_note(self, height: int, width: int) -> str | None:
        """Return what to expect of a size, in pixels, far from the native one; None for others."""
        side = self.native_resolution or self.resolution
        above = height * width >= FAR * side**2 or max(height, width) >= FAR * side
        if not above and height * width > (side / FAR) ** 2:
            return None
        where, what = (
            ("above", "subjects may come out twice or deformed")
            if above
            else ("below", "they may come out blurred")
        )
        return (
            f"pictures of {width} x {height} pixels are far {where} the {side} x {side} that {self.id} was trained on:"
            f" {what}; choose sides near {side}"
        )

    @property
    def takes_turns(self) -> bool:
        return False

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module:
        """The module that is called once per step, in memory; whoever changes it changes it back, bit for bit."""

    @abstractmethod
    def resize(self, resolution: int) -> None:
        """Take another side, in pixels, for native; OptionError unless it is a multiple of `size_multiple`."""

    @abstractmethod
    def encode(self, prompt: str) -> Conditioning:
        """Encode one sentence, without gradient; one batch entry, float32, on the device."""

    @abstractmethod
    def encode_negative(self, prompt: str) -> Conditioning:
        """Encode a sentence to keep away from, as the family's pipeline does: some give it no instruction."""

    @abstractmethod
    def adapter(self, rank: int) -> AbstractContextManager[dict[str, Tensor]]:
        """Add low-rank layers beside the denoiser's attention; yield their weights, by name, float32.

        "....lora_A.weight" [rank, in] and "....lora_B.weight" [out, rank]: what is added to a projection is B A.
        They ask for gradients. On leaving there are none. BackboneError for a model that has others.
        """

    @abstractmethod
    def token_embeddings(self, word: str) -> dict[str, Tensor]:
        """Return what each text encoder looks up for a word, by the encoder's name: [1, width], float32."""

    @abstractmethod
    def encode_with_token_embeddings(
        self, prompt: str, word: str, vectors: Mapping[str, Tensor]
    ) -> Conditioning:
        """Encode a sentence in which `word` stands for vectors of one's own, wherever it is.

        vectors: [count, width] for each text encoder; the only input that gradients flow to.
        """

    @abstractmethod
    def latents(self, image: PIL.Image.Image, generator: torch.Generator) -> Tensor:
        """Encode an RGB picture whose sides are multiples of `size_multiple` pixels.

        Returns [1, c, h, w], float32: one draw from the encoder's posterior, in the model's latent scale.
        BackboneError when the encoder overflows in half precision.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> list[PIL.Image.Image]:
        """Decode latents [batch, c, h, w] in the model's latent scale into pictures."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> NoisySample:
        """Bring latents [1 or batch, c, h, w] to the noise levels t [batch], each in 0 .. timesteps - 1."""

    @abstractmethod
    def step(self, noisy: Tensor, predicted: Tensor, t: int, to: int) -> Tensor:
        """Go from noise level `t` to `to` (-1: clean), up or down, along what the denoiser predicted.

        DDIM without noise (arXiv:2010.02502, eq. 12), Euler's step for a flow; all tensors [batch, c, h, w].
        """

    @abstractmethod
    def signal_and_sigma(self, t: int) -> tuple[float, float]:
        """Return the shares of picture and of noise at a noise level: what `add_noise` multiplies them by."""

    @abstractmethod
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the denoiser once; [batch, c, h, w], float32, to be compared with `NoisySample.target`.

        conditioning: of one sentence for all, or one per batch entry; its token embeddings are the only input that
        gradients flow to.
        """

    @abstractmethod
    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        """Return the keyword arguments by which the model's own diffusers pipeline takes these sentences: tensors,
        or lists of tensors where lengths differ, in the model's dtype and on its device.

        positive: one sentence or a batch; negatives: one for all, or one per batch entry.
        """

    @abstractmethod
    def sample(
        self,
        positive: Conditioning,
        negatives: Sequence[Conditioning],
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

        positive: one sentence for all, or one per picture; negatives: one for all, or one per picture;
        steps: 1 .. timesteps; guidance: 1 switches the negatives off; height, width: pixels, multiples of
        `size_multiple`. Picture i depends on its own seed only.
        """

    @abstractmethod
    def training_mode(self, *, texts: bool = False, weights: bool = False) -> AbstractContextManager[None]:
        """Ready the model for a fit: no weight asks for a gradient, and all but the denoiser leaves memory.

        texts: the text encoders stay as well; weights: the denoiser is called with others than its own, which are gone
        when the gradient comes back, so nothing is left to be computed then, however little memory there is.

        On leaving, also by an exception, everything is again what it was, bit for bit.
        """

    def capture_attention(self, callback: AttentionCallback) -> AbstractContextManager[None]:
        """Call `callback` with every cross-attention while the block runs; results stay the same, bit for bit.

        OptionError for a model without the capability "cross-attention".
        """
        raise OptionError(
            f"{self.id} is of the family {self.family}, which has no cross-attention to capture; allowed are"
            " models with a UNet, such as Stable Diffusion 1 and 2"
        )

    def contents(self) -> dict[str, str]:
        """Hash every component, by its name: all that it holds, weights and configuration. Nothing is moved."""
        return {"weights": self.weights_sha256()}

    def model_key(self) -> Key:
        """Return what of this model, where and how it computes decides a result, by name.

        "backbone" stands for all components, which follow one by one.
        """
        parts = {**self.contents(), **hashes({"tail encoder": self.tail_encoder})}
        plain = {name: getattr(self, name) for name in _DECIDING}
        return {
            "backbone": digest(parts),
            **{f"backbone's {name}": value[:16] for name, value in parts.items()},
            **{
                name: value if isinstance(value, (int, float)) else str(value)
                for name, value in plain.items()
            },
            "device": self.device.type,
            "deterministic": is_deterministic(),
            **versions(),
        }

    @abstractmethod
    def fingerprint(self) -> tuple[float, ...]:
        """Return 256 evenly spaced weights of text encoders and denoiser, to tell checkpoints apart.

        A change of dtype moves them by less than 0.004 in relative root mean square.
        """

    @abstractmethod
    def weight_bytes(self) -> dict[str, int]:
        """Return what each component's weights and buffers take in memory, by the component's name."""

    @abstractmethod
    def weights_sha256(self) -> str:
        """Hash every weight and buffer of every component as they are now, in hexadecimal."""
