"""DDIM inversion: from a picture to noise and back along the deterministic path that a model predicts.

DDIM (arXiv:2010.02502, eq. 12) for models of noise or v, Euler's steps for flows: both are `Backbone.step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, TypeVar, final

import torch
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone, Samples, Scheduler, StepCallback
from hiper.conditioning import Conditioning, expanded, stacked, truncation_notes
from hiper.errors import ArtifactError, OptionError
from hiper.images import Subject
from hiper.methods.base import Method, PromptEncoder
from hiper.methods.fit_options import FitOptions
from hiper.options import SamplingSettings, Value

W = TypeVar("W", bound=FitOptions)

WALK_STEPS = 50
"""Of DDIM, as in SDEdit's and null-text inversion's papers, where the model draws by a better solver in fewer."""

NOTHING_MINIMISED = float("nan")
"""The loss in the records of a fit that only walks."""


def levels(timesteps: int, steps: int) -> list[int]:
    """Return `steps` + 1 timesteps, from the cleanest up: those of diffusers' DDIM with "leading" spacing.

    The first one stands for the picture itself, as `set_alpha_to_one=False` has it in Stable Diffusion.
    """
    spacing = timesteps // steps
    return [0, *(min(1 + i * spacing, timesteps - 1) for i in range(steps))]


def walks_by(backbone: Backbone) -> Scheduler:
    """Return the sampler whose steps `Backbone.step` takes, whatever else suits the model first."""
    return "ddim" if "ddim" in backbone.schedulers else backbone.schedulers[0]


def walk_steps(backbone: Backbone) -> int:
    """Return how many steps a walk takes by default."""
    return (
        backbone.default_num_inference_steps if walks_by(backbone) == backbone.schedulers[0] else WALK_STEPS
    )


class InversionMethod(Method[W]):
    """A method whose edits start on the way to noise and walk back, by the sampler whose steps the model can take."""

    requires: ClassVar[frozenset[str]] = frozenset({"token_embeddings", "trajectory"})

    def sampling_defaults(self, backbone: Backbone) -> Mapping[str, Value]:
        """See `Method`."""
        return {"scheduler": walks_by(backbone), "num_inference_steps": walk_steps(backbone)}

    def resolve(self, options: W, backbone: Backbone, subject: Subject) -> W:
        """Fill in what the options leave to the model by what `sampling_defaults` says."""
        own = self.sampling_defaults(backbone)
        left: dict[str, Any] = {name: own[name] for name in own if getattr(options, name) is None}
        return super().resolve(replace(options, **left), backbone, subject)


def ddim_invert(
    backbone: Backbone, latents: Tensor, conditioning: Conditioning, steps: int
) -> Iterator[Tensor]:
    """Yield latents [1, c, h, w] on their way to noise, one after each step (DDIM inversion).

    The step to a level follows what the model predicts of it, as in null-text inversion's code and in diffusers.
    """
    for t, to in pairwise(levels(backbone.timesteps, steps)):
        with torch.no_grad():
            predicted = backbone.predict(latents, torch.tensor([to]), conditioning)
            latents = backbone.step(latents, predicted, t, to)
        yield latents


def guided(
    backbone: Backbone,
    noisy: Tensor,
    t: int,
    positive: Conditioning,
    negative: Conditioning,
    guidance_scale: float,
) -> Tensor:
    """Predict under guidance: [batch, c, h, w]; in one call of twice the batch where the prompts have one length."""
    level, count = torch.full((len(noisy),), t), len(noisy)
    if guidance_scale == 1:
        return backbone.predict(noisy, level, positive)
    if positive.sequence_length != negative.sequence_length:
        each = [backbone.predict(noisy, level, prompt) for prompt in (positive, negative)]
        return mixed(each[0], each[1], guidance_scale)
    prompts = stacked([expanded(positive, count), expanded(negative, count)])
    both = backbone.predict(noisy.repeat(2, 1, 1, 1), level.repeat(2), prompts)
    return mixed(both[:count], both[count:], guidance_scale)


def mixed(conditional: Tensor, unconditional: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance (arXiv:2207.12598, eq. 6, in the form of diffusers: 1 is none)."""
    return unconditional + guidance_scale * (conditional - unconditional)


Negative = Callable[[int], Conditioning]
"""From the number of a level, counted from the cleanest, to what stands in for the negative prompt there."""


@final
@dataclass(frozen=True, kw_only=True)
class InvertedSampler:
    """Draws from a point on the way to noise instead of from pure noise.

    It guides by calls of its own, which every model follows. The strength of the settings says how far up it begins: 0
    at the picture itself, 1 at the noisiest level.

    Attributes:
        backbone: Predicts and decodes.
        method: Named in errors.
        start: From seeds, a timestep and its number to latents there, [batch, c, h, w], or [1, c, h, w] where the
            seeds make no difference: then one picture is drawn for all that have the same negative prompt.
        num_inference_steps: The only number of steps it can take, None for any.
        negative: Takes the place of the negative prompts, which must be empty then.
    """

    backbone: Backbone
    method: str
    start: Callable[[Sequence[int], int, int], Tensor]
    num_inference_steps: int | None = None
    negative: Negative | None = None
    uses_negative_prompt: ClassVar[bool] = True
    uses_guidance: ClassVar[bool] = True

    def uses_negative_prompt_at(self, guidance_scale: float) -> bool:
        """See `Sampler`."""
        return guidance_scale != 1

    def sample(
        self,
        positive: Conditioning,
        negatives: Sequence[Conditioning],
        settings: SamplingSettings,
        *,
        seeds: Sequence[int],
        callback: StepCallback | None = None,
    ) -> Samples:
        """See `Backbone.sample`."""
        self._check(negatives, settings)
        steps = settings.num_inference_steps
        path = levels(self.backbone.timesteps, steps)
        top = round(settings.strength * steps)
        latents = self.start(seeds, path[top], top)
        count = max(len(latents), len(negatives))
        latents = latents.expand(count, -1, -1, -1)
        conditional, plain = expanded(positive, count), expanded(stacked(negatives), count)
        for done, number in enumerate(range(top, 0, -1), start=1):
            unconditional = plain if self.negative is None else expanded(self.negative(number), count)
            with torch.no_grad():
                predicted = guided(
                    self.backbone, latents, path[number], conditional, unconditional, settings.guidance_scale
                )
                latents = self.backbone.step(latents, predicted, path[number], path[number - 1])
            if callback is not None:
                callback(steps - top + done, steps)
        samples = self.backbone.decode_samples(latents)
        if count < len(seeds):
            images = [samples.images[0].copy() for _ in seeds]
            samples = replace(samples, images=images, flagged=samples.flagged * len(seeds))
        return samples

    def _check(self, negatives: Sequence[Conditioning], settings: SamplingSettings) -> None:
        backbone, steps = self.backbone, settings.num_inference_steps
        if settings.scheduler != walks_by(backbone):
            raise OptionError(
                f"scheduler is {settings.scheduler!r}; method {self.method} walks by {walks_by(backbone)} alone"
            )
        if self.num_inference_steps not in (None, steps):
            raise OptionError(
                f"num_inference_steps is {steps}; method {self.method} draws with the {self.num_inference_steps} steps"
                " of its fit"
            )
        if (settings.height, settings.width) != (backbone.resolution, backbone.resolution):
            raise OptionError(
                f"height is {settings.height} and width {settings.width}; method {self.method} draws at the size of its"
                f" fit, {backbone.resolution} x {backbone.resolution}"
            )
        if self.negative is not None and any(negative.prompt for negative in negatives):
            raise OptionError(
                f"method {self.method} has learnt what stands in for a negative prompt; give none"
            )


def check_strength(method: str, strength: float) -> None:
    """OptionError for a strength that is no share of the way to noise."""
    if not 0 <= strength <= 1:
        raise OptionError(
            f"strength is {strength}; for method {method} it is how far the picture is taken to noise: allowed are"
            " numbers from 0 to 1"
        )


def check_latents(artifact: Artifact, name: str, backbone: Backbone) -> Tensor:
    """Return latents [any, c, h, w] on the device; ArtifactError when they are not of the model's shape."""
    latents = artifact.tensors.get(name)
    if latents is None or latents.dim() != 4 or tuple(latents.shape[1:]) != backbone.latent_shape:
        shape = None if latents is None else list(latents.shape)
        raise ArtifactError(
            f"its {name} are {shape}, those of {backbone.id} [any, {', '.join(map(str, backbone.latent_shape))}];"
            " fit again on this model"
        )
    return latents.to(backbone.device)


def plain_encoder(backbone: Backbone) -> PromptEncoder:
    """Encode sentences as they are, with a note of words that did not fit."""

    def encode(prompt: str) -> Conditioning:
        conditioning = backbone.encode(prompt)
        return replace(conditioning, notes=truncation_notes(conditioning))

    return encode
