"""What DreamBooth's two methods share: a rare word before the subject's noun, and the class's own pictures.

Ruiz et al., "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation",
arXiv:2208.12242, sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, TypeVar, final

import torch
from torch import Tensor

from hiper.backbones import Backbone
from hiper.conditioning import Conditioning, truncation_notes
from hiper.images import Subject, fit_square
from hiper.methods.base import PromptEncoder, TrainedMethod
from hiper.methods.fit_options import KEEP_SOURCE, KeepingOptions, picture_latents, training_config
from hiper.methods.subject_noun import noun_of, with_word
from hiper.methods.weights import named
from hiper.options import Spec
from hiper.seeds import generator
from hiper.training import NO_CONTROL, Denoising, FitControl, Objective, TrainingTask

O = TypeVar("O", bound="IdentifierOptions")  # noqa: E741

_BATCH = 4


@dataclass(frozen=True, kw_only=True)
class IdentifierOptions(KeepingOptions):
    """How a subject is bound to its identifier."""

    identifier: Annotated[str, Spec("the rare word that the subject's noun gets")] = "sks"
    noun: Annotated[str | None, Spec("the caption's word for the subject; none: found by a rule")] = None
    class_images: Annotated[
        int, Spec("pictures of the class, drawn first, that must stay as they are", low=0, high=10_000)
    ] = 0
    class_prompt: Annotated[str | None, Spec("what they are drawn from; none: the caption")] = None
    prior_weight: Annotated[
        float, Spec("weight of the class's loss beside the subject's", low=0, high=100)
    ] = 1.0


class IdentifierMethod(TrainedMethod[O]):
    """A method that binds the subject to its identifier; what of the denoiser is learnt is the subclass's."""

    # Class pictures are drawn with the other options of sampling
    editing: ClassVar[frozenset[str]] = frozenset({"strength", KEEP_SOURCE})

    def resolve(self, options: O, backbone: Backbone, subject: Subject) -> O:
        """Fill in the noun by the rule, unless it was given."""
        with_noun = options if options.noun else replace(options, noun=noun_of(subject.caption))
        return super().resolve(with_noun, backbone, subject)

    def prepare(
        self, backbone: Backbone, subject: Subject, options: O, control: FitControl = NO_CONTROL
    ) -> TrainingTask:
        random = generator(options.seed)
        latents = picture_latents(backbone, subject, options, random)
        return TrainingTask(
            objective=objective(backbone, subject, latents, options, control),
            parameters={},  # those of the denoiser, by `training_mode`
            config=training_config(options, backbone),
            generator=random,
            latents=latents,
        )

    def learnt(self, backbone: Backbone, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return named(backbone, parameters)


def identified(sentence: str, noun: str, identifier: str) -> str:
    """Put the identifier before the noun: "a sitting sks dog"."""
    return with_word(sentence, noun, f"{identifier} {noun}")


def identifying(backbone: Backbone, options: Mapping[str, object]) -> PromptEncoder:
    """Encode sentences with the identifier before the noun, both as an artifact's options name them."""
    noun, identifier = str(options.get("noun")), str(options.get("identifier"))

    def encode(prompt: str) -> Conditioning:
        conditioning = backbone.encode(identified(prompt, noun, identifier))
        return replace(conditioning, notes=truncation_notes(conditioning))

    return encode


def objective(
    backbone: Backbone,
    subject: Subject,
    latents: Tensor,
    options: IdentifierOptions,
    control: FitControl,
) -> Objective:
    """Return the loss on the picture, with the class's beside it where it has pictures and weight (eq. 2)."""
    assert options.noun is not None
    conditioning = backbone.encode(identified(subject.caption, options.noun, options.identifier))
    own = _denoising(backbone, latents, conditioning, options)
    if not options.class_images or not options.prior_weight:
        return own
    prompt = options.class_prompt or subject.caption
    drawn = class_latents(backbone, prompt, options, control)
    prior = _denoising(backbone, drawn, backbone.encode(prompt), options)
    return PriorPreserving(own=own, prior=prior, weight=options.prior_weight)


def class_latents(backbone: Backbone, prompt: str, options: IdentifierOptions, control: FitControl) -> Tensor:
    """Draw the class's pictures, of seeds that follow the fit's, and return their latents [class_images, c, h, w]."""
    random = torch.Generator("cpu").manual_seed(options.seed)
    seeds = range(options.seed + 1, options.seed + 1 + options.class_images)
    positive, negative = backbone.encode(prompt), backbone.encode_negative("")
    settings = backbone.sampling_settings(
        guidance_scale=options.guidance_scale,
        num_inference_steps=options.num_inference_steps,
        scheduler=options.scheduler or backbone.schedulers[0],
    )
    latents = []
    for start in range(0, len(seeds), _BATCH):
        samples = backbone.sample(
            positive,
            [negative],
            settings,
            seeds=seeds[start : start + _BATCH],
            callback=lambda done, total: control.raise_if_stopped(),
        )
        latents += [
            backbone.latents(fit_square(image, backbone.resolution), random) for image in samples.images
        ]
    return torch.cat(latents)


@final
@dataclass(frozen=True, kw_only=True)
class PriorPreserving:
    """The loss on the picture, and `weight` times that on as many pictures of the class, drawn anew each step."""

    own: Denoising
    prior: Denoising
    weight: float

    def loss(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """See `Objective`."""
        own = self.own.loss(parameters, generator)
        picked = torch.randint(len(self.prior.latents), (self.prior.batch,), generator=generator)
        some = replace(self.prior, latents=self.prior.latents[picked])
        return own + self.weight * some.loss(parameters, generator)

    def evaluate(self, parameters: Mapping[str, Tensor]) -> float:
        """Return the loss on the picture alone."""
        return self.own.evaluate(parameters)


def _denoising(
    backbone: Backbone, latents: Tensor, conditioning: Conditioning, options: IdentifierOptions
) -> Denoising:
    return Denoising(
        backbone=backbone,
        latents=latents,
        conditioning=lambda _: conditioning,
        batch=options.batch,
        bounds=(0, backbone.timesteps),
        sampling=options.sampling,
    )
