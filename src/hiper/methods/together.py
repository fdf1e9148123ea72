"""Several subjects fitted at a time: their timesteps go through the denoiser in one call per step.

Each subject keeps its own token embeddings, latents, generator, moments and undoing, so it draws bitwise what a fit of
its own draws, and comes to the same ones but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.conditioning import Conditioning, expanded, stacked
from hiper.errors import HiperError
from hiper.images import Subject
from hiper.methods.base import Method, TrainedMethod
from hiper.methods.fit_options import TrainingOptions
from hiper.training import (
    NO_CONTROL,
    Denoising,
    FitControl,
    FitResult,
    Outcome,
    TrainingTask,
    capture,
    optimise_together,
)


@dataclass(frozen=True, kw_only=True)
class FitInput:
    """One subject, and the options of its fit, resolved."""

    subject: Subject
    options: Any


def shared_by(options: TrainingOptions) -> Hashable:
    """Return what the options of subjects that are fitted together must agree in."""
    return options.num_train_steps, options.batch


def fit_all(
    method: Method[Any],
    backbone: Backbone,
    requests: Sequence[FitInput],
    *,
    slots: int = 1,
    control: FitControl = NO_CONTROL,
) -> list[Outcome[Artifact]]:
    """Fit subjects, together where the method allows it, else one by one.

    Args:
        method: The way to learn.
        backbone: The model.
        requests: The subjects.
        slots: Subjects in a call of the denoiser, at most.
        control: What ends the fits.

    Returns:
        The artifact, or the HiperError, of each subject.

    Raises:
        Interrupted: `control` asked to stop.
    """
    method.check(backbone)
    if slots > 1 and method.fits_together and isinstance(method, TrainedMethod):
        return fit_together(method, backbone, requests, slots=slots, control=control)
    return [capture(partial(method.fit, backbone, each.subject, each.options, control)) for each in requests]


def fit_together(
    method: TrainedMethod[Any],
    backbone: Backbone,
    requests: Sequence[FitInput],
    *,
    slots: int,
    control: FitControl = NO_CONTROL,
) -> list[Outcome[Artifact]]:
    """Fit all, in calls as large as `slots` subjects ask for; one that fails leaves the others alone."""
    prepared = [capture(partial(_Prepared.of, method, backbone, each)) for each in requests]
    ready = {i: each.result for i, each in enumerate(prepared) if isinstance(each.result, _Prepared)}
    with backbone.training_mode():
        tasks = [each.task for each in ready.values()]
        fitted = optimise_together(tasks, partial(losses_together, slots=slots), control)
    ended = dict(zip(ready, fitted, strict=True))
    return [_joined(each, ended.get(i)) for i, each in enumerate(prepared)]


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A fit that is ready for its steps, and what makes an artifact of them."""

    task: TrainingTask
    artifact: Callable[[FitResult], Artifact]

    @classmethod
    def of(cls, method: TrainedMethod[Any], backbone: Backbone, request: FitInput) -> _Prepared:
        options = method.resolve(request.options, backbone, request.subject)
        task = method.prepare(backbone, request.subject, options)
        make = partial(method.fitted_artifact, backbone, request.subject, options)
        make = partial(make, fingerprint=backbone.fingerprint(), source=task.latents)
        return cls(task=task, artifact=make)


def _joined(prepared: Outcome[_Prepared], fitted: Outcome[FitResult] | None) -> Outcome[Artifact]:
    """Join what came of a subject before its steps and in them; None: it did not come so far."""
    if isinstance(prepared.result, HiperError):
        return Outcome(result=prepared.result, notes=prepared.notes)
    assert fitted is not None
    notes = (*prepared.notes, *fitted.notes)
    if isinstance(fitted.result, HiperError):
        return Outcome(result=fitted.result, notes=notes)
    return Outcome(result=prepared.result.artifact(fitted.result), notes=notes)


def losses_together(tasks: Sequence[TrainingTask], slots: int) -> list[Tensor]:
    """Return what `Denoising.loss` of each task returns, from one call of the denoiser.

    The call is as large as `slots` tasks make it; where there are fewer, the first one is repeated. The CPU's
    kernels choose by shape alone, so the loss of a task is bitwise the same beside whatever others.
    Sentences of different lengths cannot share a call: each length has one of its own then, unfilled.
    """
    shares = [_Share.of(task) for task in tasks]
    lengths = [share.conditioning.sequence_length for share in shares]
    if len(set(lengths)) == 1:
        return _losses(shares, slots)
    losses: dict[int, Tensor] = {}
    for _, some in groupby(sorted(range(len(tasks)), key=lambda i: (lengths[i], i)), lambda i: lengths[i]):
        indices = list(some)
        losses.update(zip(indices, _losses([shares[i] for i in indices], len(indices)), strict=True))
    return [losses[i] for i in range(len(tasks))]


@dataclass(frozen=True, kw_only=True)
class _Share:
    """What one task puts into a call: noisy latents, targets [batch, c, h, w], levels [batch], one sentence each."""

    objective: Denoising
    noisy: Tensor
    target: Tensor
    t: Tensor
    conditioning: Conditioning

    @classmethod
    def of(cls, task: TrainingTask) -> _Share:
        objective = cast(Denoising, task.objective)
        noise, t = objective.draw(task.generator)
        diffused = objective.backbone.add_noise(objective.latents, noise, t)
        conditioning = expanded(objective.conditioning(task.parameters), len(t))
        return cls(
            objective=objective, noisy=diffused.noisy, target=diffused.target, t=t, conditioning=conditioning
        )

    def filler(self) -> _Share:
        """The same without a gradient."""
        return replace(
            self,
            conditioning=replace(
                self.conditioning, token_embeddings=self.conditioning.token_embeddings.detach()
            ),
        )


def _losses(shares: Sequence[_Share], slots: int) -> list[Tensor]:
    call = [*shares, *[shares[0].filler()] * (slots - len(shares))]
    predicted = shares[0].objective.backbone.predict(
        torch.cat([share.noisy for share in call]),
        torch.cat([share.t for share in call]),
        stacked([share.conditioning for share in call]),
    )
    parts = torch.split(predicted, [len(share.t) for share in call])
    own = zip(shares, parts[: len(shares)], strict=True)
    return [share.objective.distance(part, share.target) for share, part in own]
