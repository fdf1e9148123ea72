"""A fit that is stopped anywhere and goes on is the same, to the last bit, as one that never stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import hiper
from hiper.artifacts import Artifact
from hiper.backbones.sd import SdBackbone
from hiper.errors import FitError, HiperError, Interrupted, ResumeError
from hiper.images import Subject
from hiper.seeds import generator
from hiper.training import (
    CheckpointFile,
    FitControl,
    FitResult,
    Keep,
    Schedule,
    TrainingConfig,
    TrainingTask,
    optimise,
    optimise_together,
)
from tests import tiny

STEPS = 12
GOAL = torch.tensor([1.0, 1.0, 1.0])
SPOILED: tuple[tuple[int, ...], ...] = ((), (0,), (7, 8), (5, 10), (2, 6, 10), (11,))
"""Steps whose loss is not finite: none, one at either end, two and three windows."""

pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower")


class Bowl:
    """Squared distance to a goal that moves at random; not finite at the steps `spoiled`."""

    def __init__(self, spoiled: Collection[int], done: int = 0) -> None:
        self._spoiled, self._step = spoiled, done

    def loss(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        goal = GOAL + 0.3 * torch.randn(3, generator=generator)
        loss = (parameters["x"] - goal).square().mean()
        self._step += 1
        return loss * math.nan if self._step - 1 in self._spoiled else loss

    def evaluate(self, parameters: Mapping[str, Tensor]) -> float:
        return float((parameters["x"].detach() - GOAL).square().mean())


def recipe(keep: Keep, window: int, schedule: Schedule = "cosine", **more: Any) -> TrainingConfig:
    return TrainingConfig(
        **{
            "steps": STEPS,
            "learning_rate": 0.2,
            "keep": keep,
            "log_every": window,
            "schedule": schedule,
            **more,
        }
    )


def task(spoiled: Collection[int], how: TrainingConfig, done: int = 0) -> TrainingTask:
    start = {"x": torch.tensor([3.0, -2.0, 0.5], requires_grad=True)}
    return TrainingTask(objective=Bowl(spoiled, done), parameters=start, config=how, generator=generator(7))


def fit(spoiled: Collection[int], how: TrainingConfig, *, done: int = 0, **control: Any) -> FitResult:
    return optimise(task(spoiled, how, done), FitControl(**control))


def stop_after(windows: int) -> Callable[[], int | None]:
    count = iter(range(-1, windows + 1))  # asked twice before the first
    return lambda: None if next(count) < windows else 15


def outcome(work: Callable[[], FitResult]) -> tuple[object, ...]:
    """What a fit ends in, to the last bit: parameters and losses, or that it gave up."""
    try:
        fitted = work()
    except FitError:
        return ("gave up",)
    return (*fitted.parameters["x"].tolist(), fitted.loss_before, fitted.loss_after)


def resumed(path: Path, spoiled: Collection[int], how: TrainingConfig, windows: int) -> tuple[object, ...]:
    """Stop after so many windows, and go on in what might be another process."""
    path.unlink(missing_ok=True)

    def stopped() -> FitResult:
        return fit(spoiled, how, checkpoint=CheckpointFile(path=path), should_stop=stop_after(windows))

    def going_on() -> FitResult:
        done = windows * how.log_every
        return fit(spoiled, how, done=done, checkpoint=CheckpointFile(path=path, resume=True))

    try:
        return outcome(stopped)
    except Interrupted:
        return outcome(going_on)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["last", "best", "mean"])
@pytest.mark.parametrize("spoiled", SPOILED, ids=str)
def test_wherever_a_fit_is_stopped_it_ends_in_the_same_bits(
    tmp_path: Path, keep: Keep, spoiled: tuple[int, ...]
) -> None:
    for window in (1, 4) if spoiled == (5, 10) else (1,):
        how = recipe(keep, window)
        whole = outcome(partial(fit, spoiled, how))
        stops = range(1, STEPS // window + 1)
        ends = [resumed(tmp_path / "fit.checkpoint", spoiled, how, windows) for windows in stops]
        assert ends == [whole] * len(ends)


def test_three_bad_windows_end_a_fit_wherever_it_was_stopped(tmp_path: Path) -> None:
    how, spoiled = recipe("last", 1), (4, 5, 6)
    ends = [resumed(tmp_path / "fit.checkpoint", spoiled, how, windows) for windows in range(1, 7)]
    assert ends == [("gave up",)] * 6


def test_a_fit_that_gave_up_may_go_on_at_the_smaller_rate(tmp_path: Path) -> None:
    checkpoint = CheckpointFile(path=tmp_path / "fit.checkpoint", resume=True)
    with pytest.raises(FitError, match="3 times"):
        fit((4, 5, 6), recipe("last", 1), checkpoint=checkpoint)
    assert fit((8, 9), recipe("last", 1), done=7, checkpoint=checkpoint).loss_after < math.inf


@pytest.mark.parametrize(
    ("spoiled", "window"),
    [*((each, 1) for each in SPOILED), *((each, 2) for each in SPOILED if len(each) < 3)],
    ids=str,
)
def test_the_mean_is_that_of_the_steps_that_were_kept(spoiled: tuple[int, ...], window: int) -> None:
    """Against a list of what every update came to, from which undone updates are taken away again."""
    came_to: list[list[float]] = []

    def look(parameters: Mapping[str, Tensor]) -> None:
        came_to.append(parameters["x"].tolist())

    fitted = fit(spoiled, recipe("mean", window, constraint=look))
    good: list[int] = []  # the steps that were there when the last good window began
    kept: list[int] = []
    for first in range(0, STEPS, window):
        steps = range(first, first + window)
        if any(step in spoiled for step in steps):
            kept = good
        else:
            good, kept = kept, [*kept, *steps]
    counted = [came_to[step] for step in kept if step >= STEPS // 2] or [came_to[kept[-1]]]
    assert torch.allclose(fitted.parameters["x"], torch.tensor(counted).mean(0), atol=1e-6)


def _unwrapped(result: FitResult | HiperError) -> FitResult:
    if isinstance(result, HiperError):
        raise result
    return result


@pytest.mark.parametrize("keep", ["last", "best", "mean"])
def test_fits_together_undo_and_average_as_each_alone(keep: Keep) -> None:
    how = recipe(keep, 2)
    together = optimise_together(
        [task(spoiled, how) for spoiled in SPOILED],
        lambda some: [each.objective.loss(each.parameters, each.generator) for each in some],
    )
    for spoiled, ended in zip(SPOILED, together, strict=True):
        alone = outcome(partial(fit, spoiled, how))
        assert outcome(partial(_unwrapped, ended.result)) == alone


def test_a_checkpoint_of_an_earlier_release_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "fit.checkpoint"
    fit((), recipe("mean", 1), checkpoint=CheckpointFile(path=path))
    header = {"hiper.checkpoint": "1", "hiper.progress": "{}", "hiper.identity": "{}"}
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata=header)
    with pytest.raises(ResumeError, match="is not a checkpoint of this release"):
        fit((), recipe("mean", 1), checkpoint=CheckpointFile(path=path, resume=True))


OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "hiper": {"num_train_steps": 6, "keep": "mean"},
    "textual-inversion": {"num_train_steps": 4},
    "dreambooth-lora": {"num_train_steps": 4},
    "imagic": {"num_train_steps": 3, "weight_steps": 2, "target": "a sitting dog"},
}
"""Methods whose loop can undo a window, with the fewest steps that tell."""


@pytest.fixture
def spoil(sd1: SdBackbone, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the model's answer be NaN in the training step of that number, in whichever run it comes."""
    answer, seen, chosen = sd1._predict, [], set[int]()

    def predict(noisy: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        first = float(noisy.flatten()[0])
        if torch.is_grad_enabled() and first not in seen:  # noise tells the step, also after resuming
            seen.append(first)
        spoiled = torch.is_grad_enabled() and seen.index(first) in chosen
        return answer(noisy, t, conditioning) * (math.nan if spoiled else 1.0)

    monkeypatch.setattr(sd1, "_predict", predict)
    return chosen.add


@pytest.mark.slow
@pytest.mark.parametrize("method", OPTIONS)
def test_a_method_that_undid_a_step_resumes_to_the_same_bits(
    sd1: SdBackbone, spoil: Callable[[int], None], method: str, tmp_path: Path
) -> None:
    subject, path = Subject.from_image(tiny.picture(), caption="a standing dog"), tmp_path / "fit.checkpoint"
    spoil(2)

    def learnt(**settings: Any) -> Artifact:
        return hiper.fit(sd1, subject, method=method, **OPTIONS[method], **settings)

    whole = learnt()
    for steps in range(
        1, sum(int(OPTIONS[method].get(name, 0)) for name in ("num_train_steps", "weight_steps")), 2
    ):
        checkpoint = CheckpointFile(path=path)
        with pytest.raises(Interrupted):
            learnt(checkpoint=checkpoint, should_stop=stop_after(steps))
        resumed = learnt(checkpoint=CheckpointFile(path=path, resume=True))
        for name, tensor in whole.tensors.items():
            assert torch.equal(resumed.tensors[name], tensor), (name, steps)
        checkpoint.remove()
