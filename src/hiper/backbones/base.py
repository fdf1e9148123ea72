"""The interface between a method and a text-to-image model.

A backbone hides parametrisation (epsilon, v, flow), latent scale, the convention of time and the library
behind it. A method sees token embeddings, latents and a mean squared error, and nothing else.

Axis names: batch, channels, height, width (pixels), h, w (latent), length (tokens), embed_dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import PIL.Image
import torch
from torch import Tensor, nn

from hiper.backbones.contents import hashes
from hiper.backbones.tail_encoder import TailEncoder
from hiper.conditioning import Conditioning, Placement
from hiper.errors import OptionError
from hiper.options import Key, SamplingSettings, check_choice, digest, is_deterministic, versions

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
    *("default_guidance_scale", "default_num_inference_steps", "schedulers"),
)
"""Attributes of a backbone that are part of its key; the defaults count where a job leaves them to the model."""

StepCallback = Callable[[int, int], None]
"""Called after each denoising step with (steps done, steps in all)."""


def check_scheduler(name: str, names: Sequence[str] = get_args(Scheduler)) -> None:
    """Raise OptionError, with the nearest name, for a sampler that is none of `names`."""
    check_choice("scheduler", name, names)


@dataclass(frozen=True, kw_only=True)
class NoisySample:
    """Noisy latents and the denoiser's target, both [batch, c, h, w], float32."""

    noisy: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class AttentionProbabilities:
    """The attention of one cross-attention layer in one call.

    Attributes:
        layer: The library's name of it.
        probabilities: [batch, heads, cells, length], float32; they sum to 1 over the tokens. Cells are those of the
            layer's own h x w, row by row. Under guidance the batch's first half is the negative prompt's.
    """

    layer: str
    probabilities: Tensor


AttentionCallback = Callable[[AttentionProbabilities], None]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Pictures in the order of their seeds.

    Attributes:
        images: Mode RGB.
        flagged: For each picture, whether the model's safety checker blackened it.
        masks: [batch, 1, h, w] in 0 to 1: how free each latent was to change; None where nothing of a source was kept.
    """

    images: list[PIL.Image.Image]
    flagged: tuple[bool, ...]
    masks: Tensor | None = None


FAR = 2
"""How many times the native picture's area, or side, is far above it; a fourth of the area is far below."""


class Backbone(ABC):
    """A frozen text-to-image model. Subclasses are final and set every attribute below.

    Attributes:
        id: The user's name for it: a name, a folder, a file or a Hub id.
        revision: Commit of a Hub model, else "".
        family: Models that may share artifacts, given equal `embed_dim`.
        device: That computes.
        dtype: Of the weights.
        max_length: Token embeddings of a prompt; of the longest one where the length varies.
        embed_dim: Their width.
        latent_shape: (channels, h, w) of a picture at the native resolution.
        resolution: Native side of a picture in pixels.
        native_resolution: Side that it was trained on where `resize` set another; None for `resolution`.
        objective: What the denoiser predicts: "epsilon" (the noise), "v_prediction" or "flow".
        timesteps: How many there are; 0 is the cleanest, timesteps - 1 all but pure noise.
        default_guidance_scale: Guidance scale that suits the model.
        default_num_inference_steps: Denoising steps that suit the model, with the first of its `schedulers`.
        schedulers: Samplers that can draw with it, the one that suits it first.
        uses_negative_prompt: Whether sampling under guidance uses the negative prompt; guidance-distilled models do
            not.
        uses_guidance: Whether sampling uses the guidance scale.
        size_multiple: A picture's sides are multiples of so many pixels.
        placement: Where a tail goes by default.
        quantised: How the denoiser's weights are packed, "nf4" or "int8"; "" where they are not.
        tail_encoder: Guesses a tail from a picture's latents, where the model's folder has one.
        denoiser_name: The library's name of the denoiser, by which others load what belongs to it.
        capabilities: What a method may ask for in its `requires`: "token_embeddings" (all), "trajectory" (`step` moves
            up and down between timesteps), "vocabulary" (`encode_with_token_embeddings`), "weights" (those of
            `denoiser` may be swapped), "lora" (the denoiser takes peft's adapters).
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
    default_guidance_scale: float
    default_num_inference_steps: int = 50
    schedulers: tuple[Scheduler, ...]
    uses_negative_prompt: bool = True
    uses_guidance: bool = True
    size_multiple: int = 8
    placement: Placement = "replace"
    quantised: str = ""
    tail_encoder: TailEncoder | None = None
    denoiser_name: ClassVar[str]
    capabilities: frozenset[str] = frozenset({"token_embeddings"})

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
        """Whether text encoders and all other parts are never in the device's memory together."""
        return False

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module:
        """The module that is called once per step, in memory; whoever changes it changes it back, bit for bit."""

    @abstractmethod
    def resize(self, resolution: int) -> None:
        """Set another native side, in pixels; OptionError unless it is a multiple of `size_multiple`."""

    @abstractmethod
    def encode(self, prompt: str) -> Conditioning:
        """Encode one prompt, without gradient; one batch entry, float32, on the device."""

    @abstractmethod
    def encode_negative(self, prompt: str) -> Conditioning:
        """Encode a negative prompt as the family's pipeline does: some add no instruction to it."""

    @abstractmethod
    def adapter(self, rank: int) -> AbstractContextManager[dict[str, Tensor]]:
        """Add low-rank layers to the denoiser's attention while the block runs.

        Args:
            rank: Of the layers.

        Yields:
            Their weights by name, float32, which require gradients: "....lora_A.weight" [rank, in] and
            "....lora_B.weight" [out, rank]; B A is added to a projection.

        Raises:
            BackboneError: The model has adapters of its own.
        """

    @abstractmethod
    def token_embeddings(self, word: str) -> dict[str, Tensor]:
        """Return what each text encoder looks up for a word, by the encoder's name: [1, width], float32."""

    @abstractmethod
    def encode_with_token_embeddings(
        self, prompt: str, word: str, vectors: Mapping[str, Tensor]
    ) -> Conditioning:
        """Encode a prompt in which a word stands for token embeddings of one's own, wherever it occurs.

        Args:
            prompt: Has the word.
            word: That is replaced.
            vectors: [count, width] for each text encoder; the only input that gradients flow to.
        """

    @abstractmethod
    def latents(self, image: PIL.Image.Image, generator: torch.Generator) -> Tensor:
        """Encode a picture.

        Args:
            image: Mode RGB; its sides are multiples of `size_multiple` pixels.
            generator: Draws from the encoder's posterior.

        Returns:
            [1, c, h, w], float32, in the model's latent scale.

        Raises:
            BackboneError: The encoder overflows in half precision.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> list[PIL.Image.Image]:
        """Decode latents [batch, c, h, w] in the model's latent scale into pictures."""

    def decode_samples(self, latents: Tensor) -> Samples:
        """Decode latents [batch, c, h, w]; the model's safety checker sees the pictures, as in `sample`."""
        images = self.decode(latents)
        return Samples(images=images, flagged=(False,) * len(images))

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> NoisySample:
        """Add noise to latents [1 or batch, c, h, w] for the timesteps t [batch], each in 0 .. timesteps - 1."""

    @abstractmethod
    def step(self, noisy: Tensor, predicted: Tensor, t: int, to: int) -> Tensor:
        """Move from one timestep to another, up or down, along what the denoiser predicted.

        DDIM without noise (arXiv:2010.02502, eq. 12), Euler's step for a flow.

        Args:
            noisy: [batch, c, h, w].
            predicted: The denoiser's output, likewise.
            t: Of `noisy`.
            to: The other timestep; -1 is clean.

        Returns:
            The latents there, [batch, c, h, w].
        """

    @abstractmethod
    def signal_and_sigma(self, t: int) -> tuple[float, float]:
        """Return the factors by which `add_noise` multiplies picture and noise at a timestep."""

    @abstractmethod
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the denoiser once.

        Args:
            noisy: [batch, c, h, w].
            t: [batch], timesteps.
            conditioning: Of one prompt for all, or one per batch entry; its token embeddings are the only input that
                gradients flow to.

        Returns:
            [batch, c, h, w], float32, to be compared with `NoisySample.target`.
        """

    @abstractmethod
    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        """Return the keyword arguments by which the model's own diffusers pipeline takes encoded prompts.

        Args:
            positive: One prompt, or a batch.
            negatives: One for all, or one per batch entry.

        Returns:
            Tensors, or lists of tensors where lengths differ, in the model's dtype and on its device.
        """

    @abstractmethod
    def sample(
        self,
        positive: Conditioning,
        negatives: Sequence[Conditioning],
        settings: SamplingSettings,
        *,
        seeds: Sequence[int],
        callback: StepCallback | None = None,
    ) -> Samples:
        """Draw one picture per seed in one batch, by classifier-free guidance.

        Args:
            positive: One sentence for all, or one per picture.
            negatives: One for all, or one per picture, encoded; `settings.negative_prompt` is not read.
            settings: At most `timesteps` steps, and a size in multiples of `size_multiple` pixels. A guidance scale of
                1 switches the negatives off.
            seeds: Picture i depends on seed i only.
            callback: Called after each denoising step.
        """

    def sampling_settings(self, **changes: Any) -> SamplingSettings:
        """Return the settings that suit the model, with `changes` to them."""
        own = SamplingSettings(
            guidance_scale=self.default_guidance_scale,
            num_inference_steps=self.default_num_inference_steps,
            scheduler=self.schedulers[0],
            height=self.resolution,
            width=self.resolution,
        )
        return replace(own, **changes)

    def uses_negative_prompt_at(self, guidance_scale: float) -> bool:
        """Whether drawing at that guidance scale reads the negative sentence."""
        return self.uses_negative_prompt and guidance_scale > 1

    @abstractmethod
    def training_mode(self, *, texts: bool = False, weights: bool = False) -> AbstractContextManager[None]:
        """Prepare the model for a fit, and restore it bit for bit on leaving, also by an exception.

        No weight requires a gradient, and all but the denoiser leaves memory.

        Args:
            texts: The text encoders stay as well.
            weights: The denoiser is called with other weights than its own, which are gone when the gradient is
                computed, so no activation is recomputed then, however little memory there is.
        """

    def capture_attention(self, callback: AttentionCallback) -> AbstractContextManager[None]:
        """Call back with every cross-attention while the block runs; results stay the same, bit for bit.

        Args:
            callback: Called with the probabilities of each layer and call.

        Raises:
            OptionError: The model lacks the capability "cross-attention".
        """
        raise OptionError(
            f"{self.id} is of the family {self.family}, which has no cross-attention to capture; allowed are"
            " models with a UNet, such as Stable Diffusion 1 and 2"
        )

    def contents(self) -> dict[str, str]:
        """Return the hash of every component, by its name: of all that it holds, weights and configuration."""
        return {"weights": self.weights_sha256()}

    def model_key(self) -> Key:
        """Return all that decides a result about this model, where and how it computes, by name.

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
