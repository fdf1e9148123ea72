"""The one optimisation loop: Adam on a few float32 parameters, seeded, watched, resumable bit for bit.

A step is a draw from one sequential CPU generator, a loss, a backward pass and an update. Whether
losses are finite is looked at once per window of steps. Several optimisations may share their backward
pass; each keeps its own generator, moments, learning rate and undoing.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from hiper.errors import FitError, HiperError, HiperWarning, Interrupted
from hiper.training.attempts import Outcome, attempt
from hiper.training.checkpoint import CheckpointFile, Identity, Progress, TrainingState
from hiper.training.optimiser import Adam, Snapshot, on_cpu

Schedule = Literal["constant", "cosine"]
Keep = Literal["last", "best", "mean"]

TRIES = 3
OVERFLOW_FACTOR = 16.0
"""By how much the loss scale shrinks: few steps are lost, and what float16 can hold is used."""
LOOKS_FOR_BEST = 10
"""How often keep="best" looks at the loss on the way."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """How far a fit has come: steps done, steps in all, mean loss of the last window, seconds so far."""

    step: int
    steps: int
    loss: float
    seconds: float


Callback = Callable[[StepRecord], None]
StopRequest = Callable[[], int | None]
"""Asked before the first window and after every one; a signal number stops the fit, saves it and raises Interrupted."""


Project = Callable[[Mapping[str, Tensor]], None]


class Objective(Protocol):
    """What is minimised."""

    def loss(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Draw from `generator` and return a scalar loss with a gradient to the parameters."""

    def evaluate(self, parameters: Mapping[str, Tensor]) -> float:
        """Return the loss on a batch of (t, noise) held fixed; the loss of a single step tells nothing."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to minimise.

    keep: the last parameters, the best of ten on the fixed batch, or the mean over those steps of the second half that
        were not undone, which lets a constant step size forget the noise of its last steps (Polyak and Juditsky, 1992).
    loss_scale: a power of two that keeps float16 gradients from underflow; smaller from the first overflow on.
    window: steps between two looks at the loss; looking makes the processor wait for an accelerator.
    undo: keep what it takes to undo a window, three copies of all that is learnt; else one that is not finite
        is a FitError at once. Only together with keep="last".
    project: called after every update, to bring the parameters back, in place, to where they may be.
    """

    steps: int
    learning_rate: float
    schedule: Schedule = "constant"
    keep: Keep = "last"
    loss_scale: float = 1.0
    window: int = 1
    undo: bool = True
    project: Project | None = None


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Parameters (float32, CPU), fixed-batch losses before and after, seconds including those resumed."""

    parameters: Mapping[str, Tensor]
    loss_before: float
    loss_after: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One optimisation of several: what its next loss is computed from; parameters are leaves, float32."""

    objective: Objective
    parameters: Mapping[str, Tensor]
    recipe: Recipe
    generator: torch.Generator


JointLosses = Callable[[Sequence[Turn]], Sequence[Tensor]]
"""Like `Objective.loss` of each turn, in their order, but computed together."""


def optimise(
    objective: Objective,
    parameters: Mapping[str, Tensor],
    recipe: Recipe,
    generator: torch.Generator,
    *,
    identity: Identity | None = None,
    callback: Callback | None = None,
    checkpoint: CheckpointFile | None = None,
    should_stop: StopRequest | None = None,
) -> Fitted:
    """Minimise `objective` from the given leaf parameters (float32), which are changed in place.

    A window with a non-finite loss or gradient is undone and the learning rate halved; after three such
    windows without progress between them FitError, with the last good state in the checkpoint. FitError
    also when the first step brings no gradient. Interrupted when `should_stop` says so.
    """
    _stop_if_asked(should_stop)
    run = _Run(objective, parameters, recipe, generator, identity or {}, checkpoint)
    run.start()
    _stop_if_asked(should_stop, run)
    while run.step < recipe.steps:
        loss = run.advance(min(recipe.window, recipe.steps - run.step))
        if callback is not None:
            callback(StepRecord(step=run.step, steps=recipe.steps, loss=loss, seconds=run.seconds))
        run.save_if_due()
        _stop_if_asked(should_stop, run)
    return run.finish()


def optimise_together(
    turns: Sequence[Turn], losses: JointLosses, *, should_stop: StopRequest | None = None
) -> list[Outcome[Fitted]]:
    """Minimise several objectives, each as `optimise` would, with one backward pass per step for all.

    The recipes agree in steps and window. One that fails leaves the others alone. Interrupted when
    `should_stop` says so; nothing is saved then.
    """
    _stop_if_asked(should_stop)
    group = _Group([_Run(t.objective, t.parameters, t.recipe, t.generator, {}, None) for t in turns])
    _stop_if_asked(should_stop)
    while group.running():
        group.advance(lambda some: losses([turns[i] for i in some]))
        _stop_if_asked(should_stop)
    return group.finish()


def _stop_if_asked(should_stop: StopRequest | None, run: _Run | None = None) -> None:
    """Raise Interrupted where `should_stop` says so, once `run` is saved."""
    signal_number = should_stop() if should_stop is not None else None
    if signal_number:
        raise Interrupted(f"stopped by signal {signal_number}{run.save() if run else ''}", signal_number)


class _Group:
    """Runs that share their backward passes; `_ended` has those that have failed."""

    def __init__(self, runs: Sequence[_Run]) -> None:
        self._runs = runs
        self._ended: dict[int, Outcome[Fitted]] = {}
        for run in runs:
            run.start()

    def _going(self) -> list[int]:
        return [i for i in range(len(self._runs)) if i not in self._ended]

    def running(self) -> bool:
        return any(self._runs[i].step < self._runs[i].recipe.steps for i in self._going())

    def advance(self, losses: Callable[[Sequence[int]], Sequence[Tensor]]) -> None:
        """Make one window of steps of all that have not failed."""
        going = self._going()
        first = self._runs[going[0]]
        for i in going:
            self._runs[i].begin_window()
        for _ in range(min(first.recipe.window, first.recipe.steps - first.step)):
            if going := self._going():
                self._step(going, losses(going))
        for i in self._going():
            self._try(i, self._runs[i].end_window)

    def _step(self, going: Sequence[int], losses: Sequence[Tensor]) -> None:
        pairs = [(self._runs[i], loss) for i, loss in zip(going, losses, strict=True)]
        total = torch.stack([loss * run.loss_scale for run, loss in pairs]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        for i, (run, loss) in zip(going, pairs, strict=True):
            self._try(i, partial(run.update, loss))

    def _try(self, i: int, work: Callable[[], object]) -> None:
        outcome = attempt(work)
        if isinstance(outcome.result, HiperError):
            self._ended[i] = Outcome(result=outcome.result, notes=outcome.notes)

    def finish(self) -> list[Outcome[Fitted]]:
        return [self._ended.get(i) or attempt(run.finish) for i, run in enumerate(self._runs)]


@dataclass(frozen=True)
class _Point:
    """Where a run can go back to: parameters and moments, the mean there, and how many updates are in that."""

    adam: Snapshot
    mean: Mapping[str, Tensor]
    averaged: int


_NOWHERE = _Point(Snapshot({}, {}, {}, updates=0), {}, averaged=0)


class _Run:
    """One optimisation under way; `TrainingState` says what of it survives a kill."""

    def __init__(
        self,
        objective: Objective,
        parameters: Mapping[str, Tensor],
        recipe: Recipe,
        generator: torch.Generator,
        identity: Identity,
        checkpoint: CheckpointFile | None,
    ) -> None:
        self._objective, self._parameters, self.recipe = objective, dict(parameters), recipe
        self._generator, self._identity, self._checkpoint = generator, identity, checkpoint
        self._adam = Adam(self._parameters, recipe.learning_rate)
        self.loss_scale = recipe.loss_scale
        self.step = self._halvings = self._failures = self._averaged = 0
        self._earlier, self._begun, self._saved = 0.0, time.monotonic(), time.monotonic()
        self._loss_before = self._best_loss = math.inf
        self._losses: list[Tensor] = []
        self._best: Mapping[str, Tensor] = self._adam.snapshot().parameters if recipe.undo else {}
        self._good = self._before = self._point()
        self._seen_gradient = self._undone = False

    @property
    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self._begun

    def start(self) -> None:
        """Take up the checkpoint, or else measure where the fit starts from."""
        state = self._checkpoint.load(self._identity) if self._checkpoint is not None else None
        if state is None:
            self._loss_before = self._objective.evaluate(self._parameters)
            return
        progress = state.progress
        self._adam.restore(
            Snapshot(state.parameters, state.first_moments, state.second_moments, updates=progress.updates)
        )
        self._best, self._averaged = state.best, progress.averaged
        moments = state.good_first_moments, state.good_second_moments
        good = Snapshot(state.good_parameters, *moments, updates=progress.good_updates)
        self._good = _Point(good, state.good_best, averaged=progress.good_averaged)
        self.loss_scale = progress.loss_scale or self.recipe.loss_scale
        self.step, self._halvings, self._earlier = progress.step, progress.halvings, progress.seconds
        self._failures, self._undone = progress.failures, progress.undone
        self._loss_before, self._best_loss = progress.loss_before, progress.best_loss
        self._seen_gradient = progress.step > 0
        self._generator.set_state(state.random)

    def _point(self) -> _Point:
        if not self.recipe.undo:
            return _NOWHERE
        mean = self._best if self.recipe.keep == "mean" else {}
        return _Point(self._adam.snapshot(), mean, averaged=self._averaged)

    def advance(self, count: int) -> float:
        """Make a window of `count` steps and return its mean loss; undo it if anything is not finite."""
        self.begin_window()
        for _ in range(count):
            loss = self._objective.loss(self._parameters, self._generator)
            (loss * self.loss_scale).backward()  # type: ignore[no-untyped-call]
            self.update(loss)
        return self.end_window()

    def begin_window(self) -> None:
        """Note where to go back to."""
        self._losses = []
        self._before = self._point()

    def update(self, loss: Tensor) -> None:
        """Make one step, once the gradient of `loss`, times the loss scale, is there.

        Where the scale alone was too much for float16, it shrinks and the step learns nothing.
        """
        recipe, step = self.recipe, self.step + len(self._losses)
        self._adam.rate = (
            recipe.learning_rate * 0.5**self._halvings * _decay(recipe.schedule, step / recipe.steps)
        )
        if not self._seen_gradient:
            self._check_gradient()
        self._losses.append(loss.detach())
        if self.loss_scale > 1 and self._adam.overflows(loss):
            self.loss_scale = max(1.0, self.loss_scale / OVERFLOW_FACTOR)
            return
        self._adam.update(self.loss_scale)
        if recipe.project is not None:
            recipe.project(self._parameters)
        if recipe.keep == "mean" and step >= recipe.steps // 2:
            self._average()

    def end_window(self) -> float:
        """Return the mean loss of the steps since `begin_window`, after undoing them if anything is not finite."""
        count = len(self._losses)
        loss = float(torch.stack(self._losses).mean())
        self.step += count
        if math.isfinite(loss) and self._adam.is_finite():
            # a state is good once a finite loss was computed from it; right after an undo it was so before
            self._good = self._before
            self._failures = self._failures if self._undone else 0
            self._undone = False
            self._note_best(count)
        else:
            self._undo(loss)
        return loss

    def _average(self) -> None:
        """Take one more update into the mean, which stands in the place of the best."""
        self._averaged += 1
        self._best = {
            name: torch.lerp(self._best[name].to(now.device), now.detach(), 1 / self._averaged)
            for name, now in self._parameters.items()
        }

    def _check_gradient(self) -> None:
        gradients = [parameter.grad for parameter in self._parameters.values()]
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            raise FitError(
                f"{next(iter(self._parameters))} received no gradient in the first step: the model does not look at"
                " these rows, or half precision underflows; try another placement, or dtype=float32"
            )
        self._seen_gradient = True

    def _undo(self, loss: float) -> None:
        if not self.recipe.undo:
            raise FitError(
                f"the fit left the finite numbers around step {self.step} (last loss: {loss}); lower the learning"
                " rate or use dtype=float32, and go on from an earlier checkpoint or anew"
            )
        self._adam.restore(self._good.adam)
        if self.recipe.keep == "mean":
            self._best, self._averaged = self._good.mean, self._good.averaged
        self._halvings, self._failures, self._undone = self._halvings + 1, self._failures + 1, True
        if self._failures == TRIES:
            self._failures = 0  # whoever goes on from here, at the smaller rate, has as many tries again
            self.save()
            kept = (
                f"; the last good state is in {self._checkpoint.path}" if self._checkpoint is not None else ""
            )
            raise FitError(
                f"the fit left the finite numbers {TRIES} times around step {self.step} (last loss: {loss});"
                f" lower the learning rate or use dtype=float32{kept}"
            )

    def _note_best(self, count: int) -> None:
        every = max(1, self.recipe.steps // LOOKS_FOR_BEST)
        if self.recipe.keep == "best" and self.step // every > (self.step - count) // every:
            self._consider(self._objective.evaluate(self._parameters))

    def _consider(self, loss: float) -> None:
        if loss < self._best_loss:
            self._best_loss, self._best = loss, self._adam.snapshot().parameters

    def save_if_due(self) -> None:
        if self._checkpoint is not None and time.monotonic() - self._saved >= self._checkpoint.every_seconds:
            self.save()

    def save(self) -> str:
        """Write the checkpoint, if there is one, and return what to tell of it."""
        if self._checkpoint is None:
            return ""
        now, good = self._adam.snapshot(), self._good.adam
        progress = Progress(
            step=self.step,
            updates=now.updates,
            halvings=self._halvings,
            loss_before=self._loss_before,
            best_loss=self._best_loss,
            seconds=self.seconds,
            failures=self._failures,
            undone=self._undone,
            averaged=self._averaged,
            loss_scale=self.loss_scale,
            good_updates=good.updates,
            good_averaged=self._good.averaged,
        )
        self._checkpoint.save(
            TrainingState(
                progress=progress,
                parameters=on_cpu(now.parameters),
                first_moments=on_cpu(now.first_moments),
                second_moments=on_cpu(now.second_moments),
                best=on_cpu(self._best),
                good_parameters=on_cpu(good.parameters),
                good_first_moments=on_cpu(good.first_moments),
                good_second_moments=on_cpu(good.second_moments),
                good_best=on_cpu(self._good.mean),
                random=self._generator.get_state(),
                identity=self._identity,
            )
        )
        self._saved = time.monotonic()
        return f"; step {self.step} of {self.recipe.steps} is in {self._checkpoint.path}"

    def finish(self) -> Fitted:
        """Measure the result and warn when nothing was gained."""
        self.save()
        if self._averaged:
            self._take_mean()
        loss_after = self._objective.evaluate(self._parameters)
        parameters: Mapping[str, Tensor] = self._parameters
        if self.recipe.keep == "best":
            self._consider(loss_after)
            loss_after, parameters = self._best_loss, self._best
        if not math.isfinite(loss_after):
            raise FitError(f"the last step ended at a loss of {loss_after}; lower the learning rate")
        if not loss_after < self._loss_before:
            warnings.warn(
                f"the fit did not lower the loss ({self._loss_before:.4f} before, {loss_after:.4f} after);"
                " try another learning rate or more steps",
                HiperWarning,
                stacklevel=2,
            )
        return Fitted(
            parameters=on_cpu(parameters),
            loss_before=self._loss_before,
            loss_after=loss_after,
            seconds=self.seconds,
        )

    def _take_mean(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._best[name])
        if self.recipe.project is not None:
            self.recipe.project(self._parameters)


def _decay(schedule: Schedule, done: float) -> float:
    """Return the factor on the learning rate after the fraction `done` of all steps."""
    return 1.0 if schedule == "constant" else 0.5 * (1.0 + math.cos(math.pi * done))
