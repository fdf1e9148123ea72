"""Null-text inversion: DDIM inversion, and for each step an empty sentence fitted so that guidance stays on the path.

Mokady et al., "Null-text Inversion for Editing Real Images using Guided Diffusion Models", arXiv:2211.09794,
algorithm 1. An edit draws the new sentence from the inverted noise with the fitted token embeddings in place of the
empty sentence's; the paper's prompt-to-prompt control of attention is not part of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.conditioning import Conditioning
from hiper.errors import ArtifactError, FitError, Interrupted
from hiper.images import Subject
from hiper.methods.base import AttachedModel
from hiper.methods.ddim_inversion import TRAJECTORY, descent_from, inverted
from hiper.methods.fit_options import FitOptions, loss_scale
from hiper.methods.inversion import InversionMethod, levels, mixed, plain_encoder
from hiper.options import Key, Spec
from hiper.training import (
    NO_CONTROL,
    OVERFLOW_FACTOR,
    CheckpointFile,
    FitControl,
    ProgressEvent,
    TrainingProgress,
    TrainingState,
)

NULLS = "nulls"


@final
@dataclass(frozen=True, kw_only=True)
class NullTextOptions(FitOptions):
    """How the empty prompts are fitted, and how an edit draws, with the same guidance scale and number of steps."""

    inner_steps: Annotated[int, Spec("optimisation steps per denoising step", low=1, high=1000)] = 10
    learning_rate: Annotated[
        float, Spec("Adam's step size at the noisiest step; it falls by half", low=1e-8, high=10)
    ] = 1e-2
    early_stop: Annotated[
        float, Spec("error of the latents at which a step's fit ends, 0: never", low=0, high=1)
    ] = 1e-5
    strength: Annotated[
        float, Spec("where on the path to noise an edit begins, 0 picture, 1 noise", low=0, high=1)
    ]


@final
class NullText(InversionMethod[NullTextOptions]):
    """The artifact is a path and token embeddings, noisiest first.

    The path is [steps + 1, c, h, w], the fitted token embeddings are [steps, length, embed_dim].
    """

    name: ClassVar[str] = "null-text"
    learns: ClassVar[str] = "the path to noise, and the empty sentence's token embeddings for each step"
    paper: ClassVar[str] = "arXiv:2211.09794"
    editing: ClassVar[frozenset[str]] = frozenset({"strength", "scheduler"})
    options_type = NullTextOptions
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "default": {"strength": 0.78, "guidance_scale": 3.51},
        "paper": {"strength": 1.0, "num_inference_steps": 50, "guidance_scale": 7.5},
    }

    def fit(
        self,
        backbone: Backbone,
        subject: Subject,
        options: NullTextOptions,
        control: FitControl = NO_CONTROL,
    ) -> Artifact:
        begun = time.monotonic()
        options = self.resolve(options, backbone, subject)
        path = inverted(backbone, subject, options, begun, replace(control, callback=None))
        key = self.key(backbone, subject, options) if control.checkpoint is not None else {}
        caption, empty = backbone.encode(subject.caption), backbone.encode_negative("")
        pursuit = _NullTextOptimisation(
            backbone, path, caption, empty, options, control.checkpoint, key, begun
        )
        with backbone.training_mode():
            for record in pursuit.steps():
                control.report(record)
                _stop_if_asked(pursuit, control)
        figures = {"seconds": round(pursuit.seconds, 3), "reconstruction_error": pursuit.error()}
        return self.artifact(
            backbone, subject, options, {TRAJECTORY: path, NULLS: pursuit.embeddings()}, figures
        )

    @contextmanager
    def attach(self, backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[AttachedModel]:
        nulls = artifact.tensors.get(NULLS)
        if nulls is None or nulls.dim() != 3 or nulls.shape[2] != backbone.embed_dim:
            raise ArtifactError(
                f"it holds no token embeddings of {backbone.embed_dim} for each step; fit again on this model"
            )
        embeddings = nulls.to(backbone.device)
        empty = backbone.encode_negative("")

        def negative(number: int) -> Conditioning:
            return replace(empty, token_embeddings=embeddings[len(embeddings) - number][None])

        descent = descent_from(backbone, artifact, strength, negative)
        yield AttachedModel(encode=plain_encoder(backbone), sampler=descent)


def _stop_if_asked(pursuit: _NullTextOptimisation, control: FitControl) -> None:
    if signal_number := control.stop_signal():
        pursuit.save()
        where = f"; its {pursuit.done} steps are in {control.checkpoint.path}" if control.checkpoint else ""
        raise Interrupted(f"stopped by signal {signal_number}{where}", signal_number)


@final
class _NullTextOptimisation:
    """Follows the path down under guidance, fitting one empty sentence per step."""

    def __init__(
        self,
        backbone: Backbone,
        path: Tensor,
        caption: Conditioning,
        empty: Conditioning,
        options: NullTextOptions,
        checkpoint: CheckpointFile | None,
        key: Key,
        begun: float,
    ) -> None:
        self._backbone, self._path, self._caption, self._empty = backbone, path, caption, empty
        self._options, self._checkpoint, self._key = options, checkpoint, key
        self._begun, self._earlier, self._saved = begun, 0.0, time.monotonic()
        self._latents, self._embeddings = path[-1:], empty.token_embeddings
        self._fitted: list[Tensor] = []
        self._levels = levels(backbone.timesteps, len(path) - 1)
        self._resume()

    @property
    def done(self) -> int:
        """Denoising steps whose empty sentence is fitted."""
        return len(self._fitted)

    @property
    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self._begun

    def embeddings(self) -> Tensor:
        """Return the fitted token embeddings [steps, length, embed_dim]."""
        return torch.cat(self._fitted)

    def error(self) -> float:
        """Return the mean squared distance of the latents to those of the path."""
        return float(F.mse_loss(self._latents, self._path[len(self._path) - 1 - self.done][None]))

    def steps(self) -> Iterator[ProgressEvent]:
        """Fit what is left, noisiest first."""
        total = len(self._path) - 1
        while self.done < total:
            number = total - self.done
            with torch.no_grad():
                conditional = self._predict(number, self._caption)
            self._embeddings = self._fit(number, conditional).detach()
            with torch.no_grad():
                self._latents = self._next(number, conditional, self._embeddings)
            self._fitted.append(self._embeddings)
            yield ProgressEvent(step=self.done, steps=total, loss=self.error(), seconds=self.seconds)
            if self._checkpoint and time.monotonic() - self._saved >= self._checkpoint.every_seconds:
                self.save()

    def _fit(self, number: int, conditional: Tensor) -> Tensor:
        options, goal = self._options, self._path[number - 1][None]
        embeddings, scale = self._embeddings.clone().requires_grad_(), loss_scale(self._backbone)
        rate = options.learning_rate * (1 - self.done / (2 * (len(self._path) - 1)))
        adam = torch.optim.Adam([embeddings], lr=rate)
        for _ in range(options.inner_steps):
            loss = F.mse_loss(self._next(number, conditional, embeddings), goal)
            error = float(loss.detach())
            if not math.isfinite(error):
                raise FitError(f"the error at step {self.done} is {error}; use dtype=float32")
            adam.zero_grad()
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            assert embeddings.grad is not None
            if scale > 1 and not embeddings.grad.isfinite().all():
                scale = max(1.0, scale / OVERFLOW_FACTOR)
                continue
            embeddings.grad.div_(scale)
            adam.step()
            if error < options.early_stop + self.done * 2 * options.early_stop:
                break
        return embeddings

    def _next(self, number: int, conditional: Tensor, embeddings: Tensor) -> Tensor:
        """Go down one step from the latents reached, with `embeddings` for the empty sentence."""
        assert self._options.guidance_scale is not None
        unconditional = self._predict(number, replace(self._empty, token_embeddings=embeddings))
        predicted = mixed(conditional, unconditional, self._options.guidance_scale)
        return self._backbone.step(self._latents, predicted, self._levels[number], self._levels[number - 1])

    def _predict(self, number: int, conditioning: Conditioning) -> Tensor:
        return self._backbone.predict(self._latents, torch.tensor([self._levels[number]]), conditioning)

    def save(self) -> None:
        """Write the checkpoint, if there is one."""
        if self._checkpoint is None or not self._fitted:
            return
        nothing_drawn = torch.zeros(1, dtype=torch.uint8)
        progress = TrainingProgress(
            step=self.done, updates=0, halvings=0, loss_before=0.0, best_loss=0.0, seconds=self.seconds
        )
        learnt = {NULLS: self.embeddings().cpu(), "latents": self._latents.cpu()}
        self._checkpoint.save(
            TrainingState(
                progress=progress,
                parameters=learnt,
                first_moments={},
                second_moments={},
                best={},
                random=nothing_drawn,
                identity=self._key,
            )
        )
        self._saved = time.monotonic()

    def _resume(self) -> None:
        state = self._checkpoint.load(self._key) if self._checkpoint is not None else None
        if state is None:
            return
        embeddings = state.parameters[NULLS].to(self._path.device)
        self._fitted, self._embeddings = [each[None] for each in embeddings], embeddings[-1:]
        self._latents = state.parameters["latents"].to(self._path.device)
        self._earlier = state.progress.seconds
