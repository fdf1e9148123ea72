"""A batch on 1 to 1000 workers, simulated event by event from measured times, with workers that fail.

    python -m benchmarks.scale_simulation [--jobs 100000] [--seed 0] [--out benchmarks/scale_simulation.json]

A worker starts, reads the model from shared storage, and takes one job after the other from the driver. The
driver and the storage serve one request at a time: the driver a job's hand-out and return, the storage the bytes of
models and results. A worker fails after an exponentially distributed time; its job goes back to the front of the
queue, and another worker starts in its place, as the engines do it.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.common import finish, options

HERE = Path(__file__).parent
WORKERS = (1, 10, 100, 300, 1000)


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a job costs, and what the machines can do.

    start_seconds: of a worker until it reads the model; job_seconds: fit and edits; jitter: its relative spread
    model_bytes, result_bytes: read once per worker, written once per job
    storage_bytes_per_second: of all readers and writers together; link: of one worker alone
    dispatch_seconds: of the driver, per job; hours_between_failures: of one worker, on average; 0: it never fails
    """

    start_seconds: float
    job_seconds: float
    jitter: float
    model_bytes: float
    result_bytes: float
    storage_bytes_per_second: float
    link_bytes_per_second: float
    dispatch_seconds: float
    hours_between_failures: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to; shares are of the whole time, `busy` of all workers' time spent on jobs that counted."""

    hours: float
    jobs_per_hour: float
    busy: float
    storage_busy: float
    driver_busy: float
    failures: int
    worker_hours: float


@dataclass
class _Server:
    """Serves one request at a time, in the order they come."""

    free_at: float = 0.0
    busy: float = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """Return when a request that comes now is served."""
        self.free_at = max(self.free_at, now) + seconds
        self.busy += seconds
        return self.free_at


@dataclass
class _Run:
    site: Site
    waiting: int
    rng: random.Random
    events: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    order: itertools.count[int] = field(default_factory=itertools.count)
    storage: _Server = field(default_factory=_Server)
    driver: _Server = field(default_factory=_Server)
    under_way: int = 0
    done: int = 0
    failures: int = 0
    useful: float = 0.0
    end: float = 0.0

    def at(self, time: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (time, next(self.order), event))

    def start(self, now: float) -> None:
        """A new worker: it will fail at a time that is drawn now."""
        hours = self.site.hours_between_failures
        fails = now + self.rng.expovariate(1 / (hours * 3600)) if hours else float("inf")
        self.at(now + self.site.start_seconds, lambda time: self.load(time, fails))

    def load(self, now: float, fails: float) -> None:
        site = self.site
        read = self.storage.serve(now, site.model_bytes / site.storage_bytes_per_second)
        ready = max(read, now + site.model_bytes / site.link_bytes_per_second)
        self.at(min(ready, fails), self.fail if fails < ready else lambda time: self.take(time, fails))

    def take(self, now: float, fails: float) -> None:
        """Get a job from the driver, do it, write its results; or fail on the way."""
        if not self.waiting:
            return
        self.waiting -= 1
        self.under_way += 1
        begun = self.driver.serve(now, self.site.dispatch_seconds)
        seconds = self.site.job_seconds * self.rng.uniform(1 - self.site.jitter, 1 + self.site.jitter)
        if fails < begun + seconds:
            self.at(max(fails, begun), self.lose)
        else:
            self.at(begun + seconds, lambda time: self.write(time, fails, seconds))

    def write(self, now: float, fails: float, seconds: float) -> None:
        written = self.storage.serve(now, self.site.result_bytes / self.site.storage_bytes_per_second)
        self.at(written, lambda time: self.finish(time, fails, seconds))

    def finish(self, now: float, fails: float, seconds: float) -> None:
        self.under_way -= 1
        self.done += 1
        self.useful += seconds
        self.end = max(self.end, now)
        self.take(now, fails)

    def lose(self, now: float) -> None:
        self.under_way -= 1
        self.waiting += 1
        self.fail(now)

    def fail(self, now: float) -> None:
        self.failures += 1
        if self.waiting:
            self.start(now)


def simulate(site: Site, *, workers: int, jobs: int, seed: int) -> Outcome:
    """Run `jobs` on `workers`; the same seed gives the same run."""
    run = _Run(site=site, waiting=jobs, rng=random.Random(seed))
    for _ in range(min(workers, jobs)):
        run.start(0.0)
    while run.events:
        time, _, event = heapq.heappop(run.events)
        event(time)
    assert run.done == jobs
    return Outcome(
        hours=run.end / 3600,
        jobs_per_hour=jobs / run.end * 3600,
        busy=run.useful / (run.end * workers),
        storage_busy=run.storage.busy / run.end,
        driver_busy=run.driver.busy / run.end,
        failures=run.failures,
        worker_hours=workers * run.end / 3600,
    )


def sites() -> dict[str, Site]:
    """Measured where a script measures it; the second site's other figures are the paper's and assumptions."""
    embedded = json.loads((HERE / "embedded.json").read_text())
    engine = json.loads((HERE / "engine_overhead.json").read_text())["ray"]
    here = Site(
        start_seconds=embedded["load_seconds"],
        job_seconds=embedded["default"]["fit_seconds"] + embedded["default"]["edit_seconds_4_images"],
        jitter=0.1,
        model_bytes=22e6,
        result_bytes=84e3,
        storage_bytes_per_second=1e9,
        link_bytes_per_second=1e9,
        dispatch_seconds=engine["dispatch_seconds"],
        hours_between_failures=100.0,
    )
    stable_diffusion = replace(
        here,
        start_seconds=10.0,
        job_seconds=180.0 + 10.0,
        model_bytes=2.13e9,
        result_bytes=1.7e6,
    )
    return {
        "embedded model": here,
        "Stable Diffusion 1": stable_diffusion,
        "Stable Diffusion 1, preemptible": replace(stable_diffusion, hours_between_failures=2.0),
        "Stable Diffusion 1, storage a tenth": replace(stable_diffusion, storage_bytes_per_second=1e8),
    }


def main() -> None:
    """Simulate and print; write JSON where asked."""
    parser = options(__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    report: dict[str, object] = {"jobs": arguments.jobs, "seed": arguments.seed}
    for name, site in sites().items():
        outcomes = {n: simulate(site, workers=n, jobs=arguments.jobs, seed=arguments.seed) for n in WORKERS}
        report[name] = {"site": asdict(site), "workers": {n: asdict(each) for n, each in outcomes.items()}}
    finish(arguments.out, report)


if __name__ == "__main__":
    main()
