"""The optimisation loop: Adam on a few float32 parameters, seeded, and resumable bit for bit.

A step is a draw from one sequential CPU generator, a loss, a backward pass and an update. Whether losses are finite is
checked every `log_every` steps. Several tasks may share their backward pass; each keeps its own generator, moments,
learning rate and rollback.
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
from hiper.options import Key
from hiper.training.checkpoint import CheckpointFile, TrainingProgress, TrainingState
from hiper.training.control import NO_CONTROL, FitControl, FitPaused, ProgressEvent
from hiper.training.optimiser import Adam, Snapshot, on_cpu
from hiper.training.outcome import Outcome, capture

Schedule = Literal["constant", "cosine"]
Keep = Literal["last", "best", "mean"]

TRIES = 3
OVERFLOW_FACTOR = 16.0
"""By how much the loss scale shrinks: few steps are lost, and what float16 can hold is used."""
EVALUATIONS_FOR_BEST = 10
"""How often keep="best" evaluates the loss on the way."""


Constraint = Callable[[Mapping[str, Tensor]], None]


class Objective(Protocol):
    """What is minimised."""

    def loss(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Draw from `generator` and return a scalar loss with a gradient to the parameters."""

    def evaluate(self, parameters: Mapping[str, Tensor]) -> float:
        """Return the loss on a fixed batch of (t, noise); the loss of a single step is too noisy."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to minimise.

    Attributes:
        steps: Optimisation steps.
        learning_rate: Adam's.
        schedule: Course of the learning rate.
        keep: The last parameters, the best of ten on the fixed batch, or the mean over those steps of the second half
            that were not rolled back, which lets a constant step size forget the noise of its last steps (Polyak and
            Juditsky, 1992).
        loss_scale: A power of two that keeps float16 gradients from underflow; smaller from the first overflow on.
        log_every: Steps between two checks of the loss; a check makes the processor wait for an accelerator.
        rollback: Keep three copies of the parameters, to go back to when a loss is not finite; without, that is a
            FitError at once. False only together with keep="last".
        constraint: Called after every update, to bring the parameters back, in place, to where they may be.
    """

    steps: int
    learning_rate: float
    schedule: Schedule = "constant"
    keep: Keep = "last"
    loss_scale: float = 1.0
    log_every: int = 1
    rollback: bool = True
    constraint: Constraint | None = None


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The result of a fit.

    Attributes:
        parameters: Float32, on the CPU.
        loss_before: On the fixed batch.
        loss_after: On the fixed batch.
        seconds: Including those before it was resumed.
    """

    parameters: Mapping[str, Tensor]
    loss_before: float
    loss_after: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """One fit.

    Attributes:
        objective: What is minimised.
        parameters: Leaf tensors, float32, changed in place.
        config: How.
        generator: Draws the noise of all steps, on the CPU.
        latents: Of the picture that is learnt, [1, c, h, w], for the artifact.
    """

    objective: Objective
    parameters: Mapping[str, Tensor]
    config: TrainingConfig
    generator: torch.Generator
    latents: Tensor | None = None


JointLosses = Callable[[Sequence[TrainingTask]], Sequence[Tensor]]
"""Like `Objective.loss` of each task, in their order, but computed together."""


def optimise(task: TrainingTask, control: FitControl = NO_CONTROL, key: Key | None = None) -> FitResult:
    """Minimise the task's objective.

    After steps with a non-finite loss or gradient the parameters are rolled back and the learning rate is halved.

    Args:
        task: What to minimise.
        control: Who follows, where to save, and what ends the fit.
        key: What a checkpoint must agree in to be resumed.

    Raises:
        FitError: Three rollbacks without progress between them, with the last good state in the checkpoint; or
            the first step brings no gradient.
        Interrupted: `control` asked to stop.
        FitPaused: `control` asked to pause.
    """
    control.raise_if_stopped()
    trainer = _Trainer(task, key or {}, control.checkpoint)
    trainer.start()
    trainer.stop_if_asked(control)
    steps = task.config.steps
    while trainer.step < steps:
        loss = trainer.advance(min(task.config.log_every, steps - trainer.step))
        control.report(ProgressEvent(step=trainer.step, steps=steps, loss=loss, seconds=trainer.seconds))
        trainer.save_if_due()
        trainer.end_if_asked(control)
    return trainer.finish()


def optimise_together(
    tasks: Sequence[TrainingTask], losses: JointLosses, control: FitControl = NO_CONTROL
) -> list[Outcome[FitResult]]:
    """Minimise several objectives, each as `optimise` would, with one backward pass per step for all.

    A task that fails leaves the others alone. Nothing is saved on the way.

    Args:
        tasks: Their configs agree in `steps` and `log_every`.
        losses: Computes the losses of some tasks at once.
        control: What ends the fit.

    Returns:
        The result, or the error, of each task.

    Raises:
        Interrupted: `control` asked to stop.
    """
    control.raise_if_stopped()
    joint = _JointTrainer([_Trainer(task, {}, None) for task in tasks])
    control.raise_if_stopped()
    while joint.running():
        joint.advance(lambda some: losses([tasks[i] for i in some]))
        control.raise_if_stopped()
    return joint.finish()


class _JointTrainer:
    """Trainers that share their backward passes; `_ended` has those that have failed."""

    def __init__(self, trainers: Sequence[_Trainer]) -> None:
        self._trainers = trainers
        self._ended: dict[int, Outcome[FitResult]] = {}
        for trainer in trainers:
            trainer.start()

    def _going(self) -> list[int]:
        return [i for i in range(len(self._trainers)) if i not in self._ended]

    def running(self) -> bool:
        return any(self._trainers[i].step < self._trainers[i].config.steps for i in self._going())

    def advance(self, losses: Callable[[Sequence[int]], Sequence[Tensor]]) -> None:
        """Make `log_every` steps of all that have not failed."""
        going = self._going()
        first = self._trainers[going[0]]
        for i in going:
            self._trainers[i].begin_log_interval()
        for _ in range(min(first.config.log_every, first.config.steps - first.step)):
            if going := self._going():
                self._step(going, losses(going))
        for i in self._going():
            self._try(i, self._trainers[i].end_log_interval)

    def _step(self, going: Sequence[int], losses: Sequence[Tensor]) -> None:
        pairs = [(self._trainers[i], loss) for i, loss in zip(going, losses, strict=True)]
        total = torch.stack([loss * trainer.loss_scale for trainer, loss in pairs]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        for i, (trainer, loss) in zip(going, pairs, strict=True):
            self._try(i, partial(trainer.update, loss))

    def _try(self, i: int, work: Callable[[], object]) -> None:
        outcome = capture(work)
        if isinstance(outcome.result, HiperError):
            self._ended[i] = Outcome(result=outcome.result, notes=outcome.notes)

    def finish(self) -> list[Outcome[FitResult]]:
        return [self._ended.get(i) or capture(trainer.finish) for i, trainer in enumerate(self._trainers)]


@dataclass(frozen=True)
class _Point:
    """Where a run can go back to: parameters and moments, the mean there, and how many updates are in that."""

    adam: Snapshot
    mean: Mapping[str, Tensor]
    averaged: int


_NOWHERE = _Point(Snapshot({}, {}, {}, updates=0), {}, averaged=0)


class _Trainer:
    """One optimisation under way; `TrainingState` says what of it survives a kill."""

    def __init__(self, task: TrainingTask, key: Key, checkpoint: CheckpointFile | None) -> None:
        self._objective, self._parameters, self.config = task.objective, dict(task.parameters), task.config
        self._generator, self._key, self._checkpoint = task.generator, key, checkpoint
        self._adam = Adam(self._parameters, task.config.learning_rate)
        self.loss_scale = task.config.loss_scale
        self.step = self._halvings = self._failures = self._averaged = 0
        self._earlier, self._begun, self._saved = 0.0, time.monotonic(), time.monotonic()
        self._loss_before = self._best_loss = math.inf
        self._losses: list[Tensor] = []
        self._best: Mapping[str, Tensor] = self._adam.snapshot().parameters if task.config.rollback else {}
        self._good = self._before = self._point()
        self._seen_gradient = self._rolled_back = False

    @property
    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self._begun

    def start(self) -> None:
        """Take up the checkpoint, or else measure where the fit starts from."""
        state = self._checkpoint.load(self._key) if self._checkpoint is not None else None
        if state is None:
            self._loss_before = self._objective.evaluate(self._parameters)
            return
        progress = state.progress
        self._adam.restore(
            Snapshot(state.parameters, state.first_moments, state.second_moments, updates=progress.updates)
        )
        self._best, self._averaged = state.best, progress.averaged
        first, second = state.good["first_moments"], state.good["second_moments"]
        good = Snapshot(state.good["parameters"], first, second, updates=progress.good_updates)
        self._good = _Point(good, state.good["best"], averaged=progress.good_averaged)
        self.loss_scale = progress.loss_scale or self.config.loss_scale
        self.step, self._halvings, self._earlier = progress.step, progress.halvings, progress.seconds
        self._failures, self._rolled_back = progress.failures, progress.undone
        self._loss_before, self._best_loss = progress.loss_before, progress.best_loss
        self._seen_gradient = progress.step > 0
        self._generator.set_state(state.random)

    def _point(self) -> _Point:
        if not self.config.rollback:
            return _NOWHERE
        mean = self._best if self.config.keep == "mean" else {}
        return _Point(self._adam.snapshot(), mean, averaged=self._averaged)

    def advance(self, count: int) -> float:
        """Make `count` steps and return their mean loss; roll back if anything is not finite."""
        self.begin_log_interval()
        for _ in range(count):
            loss = self._objective.loss(self._parameters, self._generator)
            (loss * self.loss_scale).backward()  # type: ignore[no-untyped-call]
            self.update(loss)
        return self.end_log_interval()

    def begin_log_interval(self) -> None:
        """Note where to go back to."""
        self._losses = []
        self._before = self._point()

    def update(self, loss: Tensor) -> None:
        """Make one step, once the gradient of `loss`, times the loss scale, is there.

        Where the scale alone was too much for float16, it shrinks and the step learns nothing.
        """
        config, step = self.config, self.step + len(self._losses)
        self._adam.rate = (
            config.learning_rate * 0.5**self._halvings * _decay(config.schedule, step / config.steps)
        )
        if not self._seen_gradient:
            self._check_gradient()
        self._losses.append(loss.detach())
        if self.loss_scale > 1 and self._adam.overflows(loss):
            self.loss_scale = max(1.0, self.loss_scale / OVERFLOW_FACTOR)
            return
        self._adam.update(self.loss_scale)
        if config.constraint is not None:
            config.constraint(self._parameters)
        if config.keep == "mean" and step >= config.steps // 2:
            self._average()

    def end_log_interval(self) -> float:
        """Return the mean loss of the steps since `begin_log_interval`, after a rollback if anything is not finite."""
        count = len(self._losses)
        loss = float(torch.stack(self._losses).mean())
        self.step += count
        if math.isfinite(loss) and self._adam.is_finite():
            # a state is good once a finite loss was computed from it; right after a rollback it was so before
            self._good = self._before
            self._failures = self._failures if self._rolled_back else 0
            self._rolled_back = False
            self._note_best(count)
        else:
            self._roll_back(loss)
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
                " these embeddings, or half precision underflows; try another placement, or dtype=float32"
            )
        self._seen_gradient = True

    def _roll_back(self, loss: float) -> None:
        if not self.config.rollback:
            raise FitError(
                f"the fit left the finite numbers around step {self.step} (last loss: {loss}); lower the learning"
                " rate or use dtype=float32, and go on from an earlier checkpoint or anew"
            )
        self._adam.restore(self._good.adam)
        if self.config.keep == "mean":
            self._best, self._averaged = self._good.mean, self._good.averaged
        self._halvings, self._failures, self._rolled_back = self._halvings + 1, self._failures + 1, True
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
        every = max(1, self.config.steps // EVALUATIONS_FOR_BEST)
        if self.config.keep == "best" and self.step // every > (self.step - count) // every:
            self._consider(self._objective.evaluate(self._parameters))

    def _consider(self, loss: float) -> None:
        if loss < self._best_loss:
            self._best_loss, self._best = loss, self._adam.snapshot().parameters

    def save_if_due(self) -> None:
        if self._checkpoint is not None and time.monotonic() - self._saved >= self._checkpoint.every_seconds:
            self.save()

    def stop_if_asked(self, control: FitControl) -> None:
        """Save, then raise Interrupted, if that was asked for."""
        if signal_number := control.stop_signal():
            raise Interrupted(f"stopped by signal {signal_number}{self.save()}", signal_number)

    def end_if_asked(self, control: FitControl) -> None:
        """Save, then raise Interrupted or FitPaused, if either was asked for; a fit pauses after new steps alone."""
        self.stop_if_asked(control)
        if control.pause_at is not None and self.step >= control.pause_at:
            self.save()
            raise FitPaused

    def save(self) -> str:
        """Write the checkpoint, if there is one, and return a clause on it for a message."""
        if self._checkpoint is None:
            return ""
        now, good = self._adam.snapshot(), self._good.adam
        progress = TrainingProgress(
            step=self.step,
            updates=now.updates,
            halvings=self._halvings,
            loss_before=self._loss_before,
            best_loss=self._best_loss,
            seconds=self.seconds,
            failures=self._failures,
            undone=self._rolled_back,
            averaged=self._averaged,
            loss_scale=self.loss_scale,
            good_updates=good.updates,
            good_averaged=self._good.averaged,
        )
        self._checkpoint.save(
            TrainingState(
                progress=progress,
                **_groups(now, self._best),
                good=_groups(good, self._good.mean),
                random=self._generator.get_state(),
                identity=self._key,
            )
        )
        self._saved = time.monotonic()
        return f"; step {self.step} of {self.config.steps} is in {self._checkpoint.path}"

    def finish(self) -> FitResult:
        """Measure the result and warn when nothing was gained."""
        self.save()
        if self._averaged:
            self._take_mean()
        loss_after = self._objective.evaluate(self._parameters)
        parameters: Mapping[str, Tensor] = self._parameters
        if self.config.keep == "best":
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
        return FitResult(
            parameters=on_cpu(parameters),
            loss_before=self._loss_before,
            loss_after=loss_after,
            seconds=self.seconds,
        )

    def _take_mean(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._best[name])
        if self.config.constraint is not None:
            self.config.constraint(self._parameters)


def _groups(adam: Snapshot, best: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return copies of the tensors of a `TrainingState`, on the CPU."""
    groups = {
        "parameters": adam.parameters,
        "first_moments": adam.first_moments,
        "second_moments": adam.second_moments,
        "best": best,
    }
    return {name: on_cpu(group) for name, group in groups.items()}


def _decay(schedule: Schedule, done: float) -> float:
    """Return the factor on the learning rate after the fraction `done` of all steps."""
    return 1.0 if schedule == "constant" else 0.5 * (1.0 + math.cos(math.pi * done))
