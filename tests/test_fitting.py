"""The optimisation loop on problems with known answers."""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hiper.cli.stopping import Stopped, catch_signals
from hiper.errors import FitError, HiperWarning, Interrupted, ResumeError
from hiper.options import Key
from hiper.seeds import generator
from hiper.training import (
    CheckpointFile,
    FitControl,
    FitResult,
    Keep,
    ProgressEvent,
    Schedule,
    TrainingConfig,
    TrainingState,
    TrainingTask,
    optimise,
)

START = [3.0, -2.0, 0.5]
GOAL = torch.tensor([1.0, 1.0, 1.0])


class Bowl:
    """Squared distance to the goal, with noise drawn from the generator; `spoil` may ruin a call's loss."""

    def __init__(self, noise: float = 0.1, spoil: Callable[[int, Tensor], Tensor] | None = None) -> None:
        self.noise, self.spoil, self.calls = noise, spoil, 0

    def loss(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        goal = GOAL + self.noise * torch.randn(3, generator=generator)
        loss = (parameters["x"] - goal).square().mean()
        self.calls += 1
        return self.spoil(self.calls, loss) if self.spoil else loss

    def evaluate(self, parameters: Mapping[str, Tensor]) -> float:
        return float((parameters["x"].detach() - GOAL).square().mean())


def run(
    bowl: Bowl | None = None,
    *,
    steps: int = 20,
    rate: float = 0.1,
    keep: Keep = "last",
    schedule: Schedule = "constant",
    scale: float = 1.0,
    window: int = 1,
    key: Key | None = None,
    **control: Any,
) -> FitResult:
    config = TrainingConfig(
        steps=steps, learning_rate=rate, keep=keep, schedule=schedule, loss_scale=scale, log_every=window
    )
    return optimise(task(bowl or Bowl(), config), FitControl(**control), key)


def task(bowl: Bowl, config: TrainingConfig) -> TrainingTask:
    start = {"x": torch.tensor(START, requires_grad=True)}
    return TrainingTask(objective=bowl, parameters=start, config=config, generator=generator(7))


def adam(
    steps: int, rate: Callable[[int], float], project: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """Adam written out (Kingma and Ba, arXiv:1412.6980, algorithm 1), in float64."""
    x, m, v = (torch.tensor(values, dtype=torch.float64) for values in (START, [0.0] * 3, [0.0] * 3))
    random = generator(7)
    for i in range(1, steps + 1):
        goal = (GOAL + 0.1 * torch.randn(3, generator=random)).double()
        g = 2 * (x - goal) / 3
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = project(x - rate(i - 1) * (m / (1 - 0.9**i)) / ((v / (1 - 0.999**i)).sqrt() + 1e-8))
    return x


def test_the_optimiser_is_adam() -> None:
    assert torch.allclose(run().parameters["x"].double(), adam(20, lambda _: 0.1), atol=1e-5)


def test_the_cosine_schedule_falls_to_zero() -> None:
    expected = adam(20, lambda i: 0.1 * 0.5 * (1 + math.cos(math.pi * i / 20)))
    assert torch.allclose(run(schedule="cosine").parameters["x"].double(), expected, atol=1e-5)


def unit_length(parameters: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        parameters["x"].div_(parameters["x"].norm())


def test_every_update_is_projected_and_a_stopped_fit_goes_on_projecting(tmp_path: Path) -> None:
    path = tmp_path / "fit.checkpoint"
    config = TrainingConfig(steps=20, learning_rate=0.1, constraint=unit_length)

    def fit(**control: Any) -> Tensor:
        return optimise(task(Bowl(), config), FitControl(**control)).parameters["x"]

    whole = fit()
    expected = adam(20, lambda _: 0.1, lambda x: x / x.norm())
    assert torch.allclose(whole.double(), expected, atol=1e-5)
    with pytest.raises(Interrupted):
        fit(checkpoint=CheckpointFile(path=path), should_stop=stop_after(11))
    assert torch.equal(fit(checkpoint=CheckpointFile(path=path, resume=True)), whole)


def test_a_loss_scale_of_a_power_of_two_changes_nothing() -> None:
    assert torch.equal(run(scale=1024.0).parameters["x"], run().parameters["x"])


def test_a_loss_scale_that_overflows_shrinks_and_a_stopped_fit_goes_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "fit.checkpoint"

    def fit(**settings: object) -> FitResult:
        # on the way back float16 holds 3.3 times that
        bowl = Bowl(spoil=lambda _, loss: (loss / 2e4).half().float() * 2e4)
        return run(bowl, scale=1024.0, **settings)  # type: ignore[arg-type]

    whole = fit(checkpoint=CheckpointFile(path=path))
    progress = TrainingState.from_file(path).progress
    assert (progress.step, progress.updates, progress.loss_scale, progress.halvings) == (20, 17, 1.0, 0)
    assert whole.loss_after < whole.loss_before
    path.unlink()
    with pytest.raises(Interrupted):
        fit(checkpoint=CheckpointFile(path=path), should_stop=stop_after(2))
    resumed = fit(checkpoint=CheckpointFile(path=path, resume=True))
    assert torch.equal(resumed.parameters["x"], whole.parameters["x"])


def test_windows_change_nothing_but_the_reports() -> None:
    records: list[ProgressEvent] = []
    windowed = run(window=8, callback=records.append)
    assert torch.equal(windowed.parameters["x"], run().parameters["x"])
    assert [record.step for record in records] == [8, 16, 20]


def test_losses_before_and_after_are_those_of_the_fixed_batch() -> None:
    fitted = run()
    assert fitted.loss_before == pytest.approx(float((torch.tensor(START) - GOAL).square().mean()))
    assert fitted.loss_after == pytest.approx(Bowl().evaluate(fitted.parameters))
    assert fitted.loss_after < fitted.loss_before


def test_every_step_is_reported() -> None:
    records: list[ProgressEvent] = []
    run(steps=5, callback=records.append)
    assert [record.step for record in records] == [1, 2, 3, 4, 5]
    assert {record.steps for record in records} == {5}
    assert [record.seconds for record in records] == sorted(record.seconds for record in records)


def test_a_loss_that_does_not_fall_is_warned_of() -> None:
    class Climb(Bowl):
        def loss(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
            return -super().loss(parameters, generator)

    with pytest.warns(HiperWarning, match="did not lower the loss"):
        run(Climb())


def test_keep_best_returns_the_best_of_the_evaluated_tails() -> None:
    # a rate that overshoots: near the goal on the way, far from it at the end
    last = run(rate=0.15, steps=30, keep="last")
    best = run(rate=0.15, steps=30, keep="best")
    assert best.loss_after <= last.loss_after
    assert best.loss_after == pytest.approx(Bowl().evaluate(best.parameters))


def test_the_mean_is_that_of_the_second_half() -> None:
    ends = [run(steps=steps).parameters["x"] for steps in range(11, 21)]
    assert torch.allclose(run(keep="mean").parameters["x"], torch.stack(ends).mean(0), atol=1e-6)
    assert torch.equal(run(keep="mean", window=7).parameters["x"], run(keep="mean").parameters["x"])


def test_a_window_that_is_undone_leaves_no_trace_in_the_mean() -> None:
    assert run(Bowl(spoil=nan_at(15)), keep="mean").parameters["x"].isfinite().all()


def test_a_projected_mean_is_where_it_may_be() -> None:
    fitted = optimise(
        task(Bowl(), TrainingConfig(steps=20, learning_rate=0.1, keep="mean", constraint=unit_length))
    )
    assert float(fitted.parameters["x"].norm()) == pytest.approx(1, abs=1e-6)
    assert fitted.loss_after == pytest.approx(Bowl().evaluate(fitted.parameters))


def test_a_parameter_without_gradient_stops_the_fit() -> None:
    class Blind(Bowl):
        def loss(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
            return (parameters["x"] * 0).sum()

    with pytest.raises(FitError, match="x received no gradient in the first step"):
        run(Blind())


def nan_at(*calls: int) -> Callable[[int, Tensor], Tensor]:
    return lambda call, loss: loss * math.nan if call in calls else loss


def test_one_loss_that_is_not_finite_costs_a_step_and_halves_the_rate() -> None:
    records: list[ProgressEvent] = []
    fitted = run(Bowl(noise=0, spoil=nan_at(5)), steps=40, rate=0.1, callback=records.append)
    assert math.isnan(records[4].loss)
    assert all(math.isfinite(record.loss) for i, record in enumerate(records) if i != 4)
    assert fitted.parameters["x"].isfinite().all()
    assert fitted.loss_after < fitted.loss_before
    # the moves after it are half as long: Adam's step on a long slope is its rate
    moves = [abs(math.sqrt(a.loss) - math.sqrt(b.loss)) for a, b in pairwise(records)]
    assert moves[8] < 0.6 * moves[2]


def test_an_infinite_gradient_is_caught_too() -> None:
    def spoil(call: int, loss: Tensor) -> Tensor:
        # finite itself, but with an infinite slope
        return loss + (loss - loss.detach()).abs().sqrt() if call == 5 else loss

    assert run(Bowl(noise=0, spoil=spoil), steps=20).parameters["x"].isfinite().all()


def test_three_in_a_row_end_the_fit_and_leave_the_last_good_state(tmp_path: Path) -> None:
    checkpoint = CheckpointFile(path=tmp_path / "fit.checkpoint")
    with pytest.raises(FitError, match=r"left the finite numbers 3 times.*last good state is in"):
        run(Bowl(spoil=nan_at(*range(6, 30))), checkpoint=checkpoint)
    kept = TrainingState.from_file(checkpoint.path).parameters["x"]
    assert kept.isfinite().all()
    assert Bowl().evaluate({"x": kept}) < Bowl().evaluate({"x": torch.tensor(START)})


def test_a_bad_window_is_undone_as_a_whole() -> None:
    records: list[ProgressEvent] = []
    spoiled = run(Bowl(noise=0, spoil=nan_at(7)), window=5, callback=records.append)
    assert [math.isnan(record.loss) for record in records] == [False, True, False, False]
    # undone is the window before too, for its last update was not seen to be good: 10 of 20 steps are left
    assert spoiled.parameters["x"].isfinite().all()
    assert records[2].loss == pytest.approx(records[0].loss, rel=0.5)


def test_two_in_a_row_do_not() -> None:
    assert run(Bowl(spoil=nan_at(4, 5, 9, 10))).parameters["x"].isfinite().all()


def test_a_rate_that_explodes_ends_in_words() -> None:
    with pytest.raises(FitError, match="lower the learning rate"):
        run(Bowl(), rate=1e30)


def stop_after(windows: int) -> Callable[[], int | None]:
    """Answered so often: before and after the fit's start is measured, and after every window."""
    count = iter(range(-1, windows + 1))
    return lambda: None if next(count) < windows else 15


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("keep", ["last", "best", "mean"])
def test_a_stopped_fit_resumes_to_the_same_bits(tmp_path: Path, schedule: Schedule, keep: Keep) -> None:
    whole = run(schedule=schedule, keep=keep)
    path = tmp_path / "fit.checkpoint"
    with pytest.raises(Interrupted, match=r"stopped by signal 15; step 5 of 20 is in") as stop:
        run(schedule=schedule, keep=keep, checkpoint=CheckpointFile(path=path), should_stop=stop_after(5))
    assert stop.value.exit_status == 143
    bowl = Bowl()
    resumed = run(bowl, schedule=schedule, keep=keep, checkpoint=CheckpointFile(path=path, resume=True))
    assert bowl.calls == 15
    assert torch.equal(resumed.parameters["x"], whole.parameters["x"])
    assert (resumed.loss_before, resumed.loss_after) == (whole.loss_before, whole.loss_after)


def test_a_fit_is_stopped_before_its_first_step(tmp_path: Path) -> None:
    """Before anything is computed, with nothing to go on from; then at step 0."""
    whole, bowl = run(), Bowl()
    checkpoint = CheckpointFile(path=tmp_path / "fit.checkpoint", resume=True)
    with pytest.raises(Interrupted, match=r"^stopped by signal 15$"):
        run(bowl, checkpoint=checkpoint, should_stop=stop_after(-1))
    assert not checkpoint.path.exists()
    with pytest.raises(Interrupted, match="step 0 of 20 is in"):
        run(bowl, checkpoint=checkpoint, should_stop=stop_after(0))
    assert bowl.calls == 0
    resumed = run(bowl, checkpoint=checkpoint)
    assert torch.equal(resumed.parameters["x"], whole.parameters["x"])
    assert resumed.loss_before == whole.loss_before


def test_a_stop_without_checkpoint_says_no_place() -> None:
    with pytest.raises(Interrupted, match=r"^stopped by signal 15$"):
        run(should_stop=stop_after(2))


def test_a_finished_fit_resumes_without_a_step(tmp_path: Path) -> None:
    path = tmp_path / "fit.checkpoint"
    whole = run(checkpoint=CheckpointFile(path=path))
    bowl = Bowl()
    assert torch.equal(
        run(bowl, checkpoint=CheckpointFile(path=path, resume=True)).parameters["x"], whole.parameters["x"]
    )
    assert bowl.calls == 0


def test_a_last_step_into_nowhere_is_no_result() -> None:
    with pytest.raises(FitError, match="loss of inf; lower the learning rate"):
        run(steps=1, rate=1e30)
    assert run(steps=2, rate=0.5, keep="best").loss_after < math.inf


def test_checkpoints_are_written_as_often_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "fit.checkpoint"
    seen: list[int] = []

    def look(record: ProgressEvent) -> None:
        seen.append(TrainingState.from_file(path).progress.step if path.exists() else 0)

    run(steps=4, checkpoint=CheckpointFile(path=path, every_seconds=0), callback=look)
    assert seen == [0, 1, 2, 3]
    seen.clear()
    path.unlink()
    run(steps=4, checkpoint=CheckpointFile(path=path, every_seconds=1000), callback=look)
    assert seen == [0, 0, 0, 0]


def test_another_job_is_refused_with_the_differing_fields(tmp_path: Path) -> None:
    path = tmp_path / "fit.checkpoint"
    run(checkpoint=CheckpointFile(path=path), key={"caption": "a dog", "tail": 5, "seed": 0})
    with pytest.raises(ResumeError) as refusal:
        run(checkpoint=CheckpointFile(path=path, resume=True), key={"caption": "a cat", "tail": 5, "seed": 1})
    assert "caption was 'a dog' and is 'a cat', seed was 0 and is 1;" in str(refusal.value)
    assert "tail" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"garbage garbage garbage", None])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "fit.checkpoint"
    run(checkpoint=CheckpointFile(path=path))
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with pytest.raises(ResumeError, match="remove it to start anew"):
        run(checkpoint=CheckpointFile(path=path, resume=True))


def test_a_file_of_another_kind_is_no_checkpoint(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "fit.checkpoint"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ResumeError, match="is not a checkpoint of this release"):
        run(checkpoint=CheckpointFile(path=path, resume=True))


def test_a_fit_anew_leaves_no_part_of_an_earlier_one_and_no_stranger_is_touched(tmp_path: Path) -> None:
    checkpoint = CheckpointFile(path=tmp_path / "fit.checkpoint")
    stale, stranger = checkpoint.part("weights").path, tmp_path / "fit.checkpoint.bak"
    for path in (stale, stranger):
        path.write_bytes(b"x")
    run(checkpoint=checkpoint)
    assert not stale.exists()
    stale.write_bytes(b"x")
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == [stranger]


def test_a_checkpoint_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fit.checkpoint"
    run(checkpoint=CheckpointFile(path=path), key={"a": 1})
    state = TrainingState.from_file(path)
    (tmp_path / "again").write_bytes(state.to_bytes())
    again = TrainingState.from_file(tmp_path / "again")
    assert (again.progress, again.identity) == (state.progress, state.identity)
    for group in ("parameters", "first_moments", "second_moments", "best"):
        ours, theirs = getattr(state, group), getattr(again, group)
        assert ours.keys() == theirs.keys() == {"x"}
        assert torch.equal(ours["x"], theirs["x"])
    assert torch.equal(again.random, state.random)


def test_a_resumed_random_stream_is_not_restarted(tmp_path: Path) -> None:
    """What the generator gave before the fit, the latent for one, must not be drawn again."""
    path = tmp_path / "fit.checkpoint"
    with pytest.raises(Interrupted):
        run(checkpoint=CheckpointFile(path=path), should_stop=stop_after(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = TrainingState.from_file(path)
    random = generator(7)
    for _ in range(3):
        torch.randn(3, generator=random)
    assert torch.equal(state.random, random.get_state())


def test_a_signal_waits_only_where_there_is_something_to_save() -> None:
    """A fit asks for the first time when its sentence and picture are read."""
    with catch_signals() as stop, stop.deferred(once_asked=True), pytest.raises(Stopped):
        signal.raise_signal(signal.SIGTERM)
    with catch_signals() as stop, stop.deferred(once_asked=True):
        assert stop.requested() is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested() == signal.SIGTERM
