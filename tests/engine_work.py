"""Work for workers of every engine: what a payload asks for."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from hiper.errors import HiperWarning, Interrupted, OptionError
from hiper.training import StopRequest


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to do; `deaths`: a folder of files, each of them a worker's life, or one to meet in."""

    do: str
    number: int = 0
    deaths: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The square of the number, and who worked it out with how many threads, seeing which GPU."""

    square: int
    pid: int
    threads: int
    device: str = ""


def make_work(should_stop: StopRequest) -> Callable[[Order], Receipt]:
    """One function per action."""

    def work(order: Order) -> Receipt:
        _ACTIONS[order.do](order, should_stop)
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return Receipt(
            square=order.number**2, pid=os.getpid(), threads=torch.get_num_threads(), device=device
        )

    return work


def make_nothing(should_stop: StopRequest) -> Callable[[Order], Receipt]:
    """Dies before it is ready."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _square(order: Order, should_stop: StopRequest) -> None:
    warnings.warn(f"{order.number} is squared", HiperWarning, stacklevel=2)


def _die(order: Order, should_stop: StopRequest) -> None:
    assert order.deaths is not None
    for mark in sorted(order.deaths.iterdir()):
        mark.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def _sleep(order: Order, should_stop: StopRequest) -> None:
    end = time.monotonic() + 100
    while time.monotonic() < end:
        if signal_number := should_stop():
            raise Interrupted(f"stopped by signal {signal_number}", signal_number)
        time.sleep(0.01)


def _meet(order: Order, should_stop: StopRequest) -> None:
    """Wait for another worker, in a folder."""
    assert order.deaths is not None
    (order.deaths / str(os.getpid())).touch()
    end = time.monotonic() + 100
    while time.monotonic() < end and len(list(order.deaths.iterdir())) < 2:
        time.sleep(0.01)


def _hog(order: Order, should_stop: StopRequest) -> None:
    torch.ones(2**31, dtype=torch.uint8)


def _refuse(order: Order, should_stop: StopRequest) -> None:
    raise OptionError("the order is refused")


def _fail(order: Order, should_stop: StopRequest) -> None:
    raise KeyError("a mistake of the programme")


_ACTIONS: dict[str, Callable[[Order, StopRequest], None]] = {
    "square": _square,
    "die": _die,
    "sleep": _sleep,
    "meet": _meet,
    "hog": _hog,
    "refuse": _refuse,
    "fail": _fail,
}
