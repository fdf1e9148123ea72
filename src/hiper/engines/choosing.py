"""Engines: how tasks get to workers, each of which holds a model. A table of names to lazy imports."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hiper.errors import OptionError
from hiper.options import check_choice, check_whole

if TYPE_CHECKING:
    from hiper.engines.base import Engine

ENGINES = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Which engine, and how it may use the machines.

    Attributes:
        name: "local" or "ray".
        workers: Processes of this machine.
        address: Of a running Ray cluster; None starts one here.
        cores_per_worker: Of a Ray worker without a GPU.
        gpus: One Ray worker per GPU, where there are any.
        memory_limit: GiB of a worker process, its model included.
        isolated: Even a single local worker gets a process of its own, so that it can be ended.

    Raises:
        OptionError: An unknown engine, one whose extra is not installed, or a number out of range.
    """

    name: str = "local"
    workers: int = 1
    address: str | None = None
    cores_per_worker: int = 1
    gpus: bool = True
    memory_limit: float | None = None
    isolated: bool = False

    def __post_init__(self) -> None:
        check_choice("engine", self.name, ENGINES)
        if self.name == "ray" and find_spec("ray") is None:
            raise OptionError('engine ray needs an extra: pip install "hiper[ray]"')
        check_whole("workers", self.workers, 1)
        check_whole("cores_per_worker", self.cores_per_worker, 1)
        if self.memory_limit is not None and not self.memory_limit > 0:
            raise OptionError(f"memory_limit is {self.memory_limit}; allowed are numbers of GiB above 0")


def open_engine(settings: EngineSettings, device: str | None = None) -> Engine:
    """Return the engine of the settings.

    Args:
        settings: Which one.
        device: What its workers are to load on; None gives each a GPU of its own, where there are any.

    Raises:
        OptionError: More worker processes than GPUs.
    """
    if settings.name == "ray":
        from hiper.engines.ray import RayEngine

        return RayEngine(
            address=settings.address,
            cores_per_worker=settings.cores_per_worker,
            memory_limit=settings.memory_limit,
            gpus=settings.gpus,
        )
    if settings.workers == 1 and settings.memory_limit is None and not settings.isolated:
        from hiper.engines.in_process import InProcessEngine

        return InProcessEngine()
    from hiper.engines.devices import devices_of
    from hiper.engines.processes import Processes

    devices = devices_of(settings.workers, device)
    return Processes(settings.workers, memory_limit=settings.memory_limit, devices=devices)
