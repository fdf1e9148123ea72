"""Imagic fits the target prompt's token embeddings to the picture, then the denoiser to them.

An edit moves back from them towards the prompt. A fit serves its one target prompt.

Kawar et al., "Imagic: Text-Based Real Image Editing with Diffusion Models", arXiv:2210.09276, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.conditioning import Conditioning, truncation_notes
from hiper.errors import ArtifactError, OptionError
from hiper.images import Subject, clean_text
from hiper.methods.base import AttachedModel, Method
from hiper.methods.fit_options import EDITING, TrainingOptions, picture_latents, training_config
from hiper.methods.weights import OverWeights, copied, named, swapped_weights
from hiper.options import Key, Spec
from hiper.seeds import generator
from hiper.training import NO_CONTROL, Denoising, FitControl, FitResult, ProgressEvent, TrainingTask, optimise

TEXT = "rows"


@final
@dataclass(frozen=True, kw_only=True)
class ImagicOptions(TrainingOptions):
    """How the text (steps, learning_rate) and then the weights are fitted, and how far an edit goes back."""

    target: Annotated[str | None, Spec("the sentence that edits will be asked for")] = None
    weight_steps: Annotated[int, Spec("optimisation steps of the denoiser", low=1, high=1_000_000)]
    weight_learning_rate: Annotated[float, Spec("Adam's step size for the denoiser", low=1e-10, high=10)]
    strength: Annotated[
        float,
        Spec(
            "1: the fitted token embeddings, 0: the target sentence's; the paper's 1 - eta", low=-10, high=10
        ),
    ]


@final
class Imagic(Method[ImagicOptions]):
    """The result is the fitted token embeddings [length, embed_dim] and every weight of the denoiser."""

    name: ClassVar[str] = "imagic"
    learns: ClassVar[str] = "one sentence's token embeddings and all weights of the denoiser"
    paper: ClassVar[str] = "arXiv:2210.09276"
    requires: ClassVar[frozenset[str]] = frozenset({"token_embeddings", "weights"})
    per_sentence: ClassVar[bool] = True
    editing: ClassVar[frozenset[str]] = frozenset(EDITING)
    options_type = ImagicOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "default": {
            "num_train_steps": 100,
            "batch": 4,
            "learning_rate": 3.8e-2,
            "schedule": "cosine",
            "sampling": "stratified",
            "weight_steps": 60,
            "weight_learning_rate": 1.8e-4,
            "strength": 0.07,
        },
        # on Stable Diffusion; eta 0.7
        "paper": {
            "num_train_steps": 1000,
            "batch": 1,
            "learning_rate": 2e-3,
            "weight_steps": 1500,
            "weight_learning_rate": 5e-7,
            "strength": 0.3,
            "guidance_scale": 7.5,
            "num_inference_steps": 50,
        },
        # the pipeline among diffusers' community examples; its alpha of 1.2
        "community": {
            "num_train_steps": 500,
            "batch": 1,
            "learning_rate": 1e-3,
            "weight_steps": 1000,
            "weight_learning_rate": 2e-6,
            "strength": -0.2,
            "guidance_scale": 7.5,
            "num_inference_steps": 50,
        },
    }

    def fit(
        self,
        backbone: Backbone,
        subject: Subject,
        options: ImagicOptions,
        control: FitControl = NO_CONTROL,
    ) -> Artifact:
        options = self.resolve(options, backbone, subject)
        random = generator(options.seed)
        latents = picture_latents(backbone, subject, options, random)
        conditioning = backbone.encode(str(options.target))
        fingerprint = backbone.fingerprint()
        key = self.key(backbone, subject, options) if control.checkpoint is not None else {}
        with backbone.training_mode(weights=True):
            stages = _Stages(backbone, latents, conditioning, options, random, key, control)
            text = stages.text()
            weights = stages.weights(text)
        return self.artifact(
            backbone,
            subject,
            options,
            {**text.parameters, **named(backbone, weights.parameters)},
            {
                "seconds": round(text.seconds + weights.seconds, 3),
                "loss_before": text.loss_before,
                "loss_after": weights.loss_after,
            },
            fingerprint,
        )

    def resolve(self, options: ImagicOptions, backbone: Backbone, subject: Subject) -> ImagicOptions:
        return super().resolve(replace(options, target=_target(options)), backbone, subject)

    @contextmanager
    def attach(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[AttachedModel]:
        target = str(artifact.options.get("target"))
        conditioning = backbone.encode(target)
        own = conditioning.token_embeddings
        fitted = artifact.tensors.get(TEXT)
        if fitted is None or fitted.shape != own.shape[1:]:
            raise ArtifactError(
                f"it holds no token embeddings of shape {list(own.shape[1:])}; fit again on {backbone.id}"
            )
        token_embeddings = torch.lerp(own, fitted[None].to(own.device), strength)

        def encode(prompt: str) -> Conditioning:
            if prompt != target:
                raise OptionError(
                    f"the sentence is {prompt!r}, and the file was fitted for {target!r}: imagic needs a fit for"
                    " each sentence; fit again with target=SENTENCE"
                )
            return replace(
                conditioning, token_embeddings=token_embeddings, notes=truncation_notes(conditioning)
            )

        with swapped_weights(backbone, artifact, 1.0):
            yield AttachedModel(encode=encode)


def _target(options: ImagicOptions) -> str:
    if options.target is None:
        raise OptionError(
            "imagic learns for one sentence, and none was given; set target=SENTENCE for what an edit"
            " will be asked for"
        )
    return clean_text(options.target, what="target")


@final
class _Stages:
    """The two optimisations of a fit; the second one has a checkpoint of its own beside the first one's."""

    def __init__(
        self,
        backbone: Backbone,
        latents: Tensor,
        conditioning: Conditioning,
        options: ImagicOptions,
        random: torch.Generator,
        key: Key,
        control: FitControl,
    ) -> None:
        self._backbone, self._latents, self._conditioning, self._options = (
            backbone,
            latents,
            conditioning,
            options,
        )
        self._random, self._key, self._control = random, key, control

    def text(self) -> FitResult:
        """Stage A: the sentence's token embeddings, the weights frozen (section 3.2, text embedding optimisation)."""
        start = {TEXT: self._conditioning.token_embeddings[0].clone().requires_grad_()}
        config = training_config(self._options, self._backbone)
        task = TrainingTask(
            objective=self._denoising(), parameters=start, config=config, generator=self._random
        )
        return optimise(task, self._counted(0), self._key)

    def weights(self, text: FitResult) -> FitResult:
        """Stage B: the weights, the token embeddings frozen (section 3.2, model fine-tuning)."""
        options, fitted = (
            self._options,
            {name: t.to(self._latents.device) for name, t in text.parameters.items()},
        )
        inner = replace(self._denoising(), conditioning=lambda _: self._with(fitted))
        task = TrainingTask(
            objective=OverWeights(module=self._backbone.denoiser, inner=inner),
            parameters=copied(self._backbone.denoiser),
            config=training_config(
                options,
                self._backbone,
                steps=options.weight_steps,
                learning_rate=options.weight_learning_rate,
                rollback=False,
            ),
            generator=self._random,
        )
        control = self._counted(options.num_train_steps)
        if control.checkpoint is not None:
            control = replace(control, checkpoint=control.checkpoint.part("weights"))
        return optimise(task, control, {**self._key, "stage": "weights"})

    def _denoising(self) -> Denoising:
        return Denoising(
            backbone=self._backbone,
            latents=self._latents,
            conditioning=self._with,
            batch=self._options.batch,
            bounds=(0, self._backbone.timesteps),
            sampling=self._options.sampling,
        )

    def _with(self, parameters: Mapping[str, Tensor]) -> Conditioning:
        return replace(self._conditioning, token_embeddings=parameters[TEXT][None])

    def _counted(self, done: int) -> FitControl:
        """Count the steps of both stages as one."""
        total = self._options.num_train_steps + self._options.weight_steps

        def report(record: ProgressEvent) -> None:
            self._control.report(replace(record, step=done + record.step, steps=total))

        return replace(self._control, callback=report)
