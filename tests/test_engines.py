"""Engines with real processes: every task has one result, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hiper.engines import Engine, EngineSettings, RemoteError, Task, TaskResult, open_engine
from hiper.engines.devices import devices_of, gpus
from hiper.engines.processes import Processes
from hiper.errors import (
    HiperError,
    Interrupted,
    MemoryLimitError,
    OptionError,
    TimeLimitError,
    WorkerDiedError,
)
from tests.engine_work import Order, Receipt, make_nothing, make_work

Result = TaskResult[Order, Receipt]
RAY = EngineSettings(name="ray", memory_limit=1.5)
LOCAL = EngineSettings(workers=2, memory_limit=1.5)


def run(settings: EngineSettings, *orders: Order, seconds: float | None = None) -> list[Result]:
    tasks = deque(Task(payload=order, seconds=seconds) for order in orders)
    return list(open_engine(settings).run(tasks, make_work, lambda: None))


def squares(results: list[Result]) -> dict[int, int]:
    return {each.task.payload.number: each.unwrapped().square for each in results}


def marks(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        (folder / str(i)).touch()
    return folder


def test_one_worker_is_this_process() -> None:
    results = run(EngineSettings(), *(Order(do="square", number=i) for i in range(3)))
    assert [each.unwrapped().square for each in results] == [0, 1, 4]
    assert {each.unwrapped().pid for each in results} == {os.getpid()}
    assert [each.notes for each in results] == [(f"{i} is squared",) for i in range(3)]


@pytest.mark.slow
def test_every_worker_process_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    """Also the one that comes in place of a worker that has died."""
    devices = devices_of(2, None, lambda: ("3", "5", "GPU-7"))
    meeting = marks(tmp_path / "meeting", 0)
    orders = [
        Order(do="die", deaths=marks(tmp_path / "marks", 1)),
        *(Order(do="meet", deaths=meeting) for _ in range(2)),
    ]
    tasks = deque(Task(payload=order) for order in orders)
    results = [each.unwrapped() for each in Processes(2, devices=devices).run(tasks, make_work, lambda: None)]
    seen = {each.pid: each.device for each in results}
    assert len(results) == 3
    assert len(seen) == 2
    assert set(seen.values()) == {"3", "5"}


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps"])
def test_a_stated_device_is_every_workers(device: str) -> None:
    assert devices_of(4, device, lambda: ("0", "1")) == ()


def test_more_workers_than_gpus_are_refused() -> None:
    assert devices_of(2, "cuda", lambda: ("0", "1")) == ("0", "1")
    assert devices_of(8, None, lambda: ()) == ()
    assert devices_of(1, None, lambda: ("0",)) == ()
    with pytest.raises(OptionError, match=r"3 workers.* 2 to be had") as refused:
        devices_of(3, None, lambda: ("0", "1"))
    assert "\n" not in str(refused.value)


def test_gpus_are_named_as_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list(gpus()) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    assert list(gpus()) == ["GPU-a", "GPU-b"]


def test_errors_are_told_and_stop_nothing_here() -> None:
    results = run(EngineSettings(), Order(do="refuse"), Order(do="fail"), Order(do="square", number=3))
    assert [type(each.error) for each in results] == [OptionError, KeyError, type(None)]
    with pytest.raises(OptionError, match="the order is refused"):
        results[0].unwrapped()


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(OptionError, match=r"did you mean ray\?"):
        EngineSettings(name="rey")


def test_a_time_limit_needs_a_process() -> None:
    with pytest.raises(OptionError, match="a time limit needs workers in processes of their own"):
        run(EngineSettings(), Order(do="square"), seconds=1)


def test_a_signal_ends_the_run_here() -> None:
    tasks = deque(Task(payload=Order(do="sleep")) for _ in range(2))
    with pytest.raises(Interrupted, match="signal 15"):
        list(open_engine(EngineSettings()).run(tasks, make_work, lambda: 15))


@pytest.mark.slow
def test_neither_the_package_nor_the_command_line_imports_ray() -> None:
    code = (
        "import sys, hiper, hiper.cli.app, hiper.engines, hiper.engines.ray, hiper.engines.processes;"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_its_extra_ray_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r'pip install "hiper\[ray\]"'):
        EngineSettings(name="ray")


@pytest.fixture(params=["local", "ray"])
def settings(request: pytest.FixtureRequest) -> EngineSettings:
    return {"local": LOCAL, "ray": RAY}[request.param]


@pytest.mark.slow
def test_whatever_happens_every_task_has_one_result(settings: EngineSettings, tmp_path: Path) -> None:
    orders = [
        Order(do="hog", number=1),
        Order(do="refuse", number=2),
        Order(do="fail", number=3),
        Order(do="die", number=4, deaths=marks(tmp_path / "one", 1)),
        Order(do="die", number=5, deaths=marks(tmp_path / "many", 9)),
        *(Order(do="square", number=i) for i in range(6, 10)),
    ]
    results = run(settings, *orders)
    by_number = {each.task.payload.number: each for each in results}
    assert sorted(by_number) == list(range(1, 10))
    assert len(results) == 9
    errors = {number: type(each.error) for number, each in by_number.items() if each.error}
    assert errors == {1: MemoryLimitError, 2: OptionError, 3: RemoteError, 5: WorkerDiedError}
    assert "KeyError: 'a mistake of the programme'" in str(by_number[3].error).splitlines()[-1]
    assert "engine_work.py" in str(by_number[3].error)
    assert by_number[4].task.deaths == 1
    assert squares([by_number[i] for i in (4, *range(6, 10))]) == {4: 16, **{i: i * i for i in range(6, 10)}}
    assert by_number[6].notes == ("6 is squared",)
    assert os.getpid() not in {by_number[i].unwrapped().pid for i in range(6, 10)}
    assert {by_number[i].unwrapped().threads for i in range(6, 10)} == {1}
    assert len(list((tmp_path / "many").iterdir())) == 6


@pytest.mark.slow
def test_more_tasks_may_come_while_results_are_read() -> None:
    tasks = deque([Task(payload=Order(do="square", number=1))])
    seen = []
    for result in open_engine(EngineSettings(isolated=True)).run(tasks, make_work, lambda: None):
        seen.append(result.unwrapped().square)
        if len(seen) < 4:
            tasks.append(Task(payload=Order(do="square", number=len(seen) + 1)))
    assert seen == [1, 4, 9, 16]


@pytest.mark.slow
def test_a_task_that_takes_too_long_is_ended_and_nothing_else(settings: EngineSettings) -> None:
    slow = Task(payload=Order(do="sleep", number=1), seconds=0.3)
    quick = [Task(payload=Order(do="square", number=i), seconds=60.0) for i in (2, 3, 4)]
    engine: Engine = open_engine(settings)
    results = list(engine.run(deque([slow, *quick]), make_work, lambda: None))
    by_number = {each.task.payload.number: each for each in results}
    assert isinstance(by_number[1].error, TimeLimitError)
    assert "0.3 s" in str(by_number[1].error)
    assert squares([by_number[i] for i in (2, 3, 4)]) == {2: 4, 3: 9, 4: 16}


@pytest.mark.slow
def test_a_signal_ends_the_run_and_every_process(tmp_path: Path) -> None:
    begun = time.monotonic()
    tasks = deque(Task(payload=Order(do="sleep")) for _ in range(5))
    results: Iterator[Result] = open_engine(LOCAL).run(
        tasks, make_work, lambda: signal.SIGTERM if time.monotonic() > begun + 4 else None
    )
    with pytest.raises(Interrupted, match="signal 15"):
        next(results)
    assert len(tasks) >= 3
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    alive = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children.read_text().split()]
    assert not [line for line in alive if b"spawn_main" in line]


@pytest.mark.slow
def test_workers_that_never_get_ready_are_given_up() -> None:
    tasks = deque([Task(payload=Order(do="square"))])
    with pytest.raises(HiperError, match="3 workers died before they were ready"):
        list(open_engine(EngineSettings(workers=1, isolated=True)).run(tasks, make_nothing, lambda: None))


@pytest.mark.slow
def test_a_worker_that_fits_nowhere_is_told() -> None:
    with pytest.raises(HiperError, match="no room for a single worker"):
        run(EngineSettings(name="ray", cores_per_worker=1000), Order(do="square"))
