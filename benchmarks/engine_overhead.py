"""What an engine itself costs per task: tasks that do nothing, two workers.

    python -m benchmarks.engine_overhead [--tasks 300] [--out benchmarks/engine_overhead.json]

`start_seconds` is from the call to the first result, which imports torch in the workers; `dispatch_seconds` is per
task from then on, `driver_seconds` the driver's own processor time in it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from benchmarks.common import finish, options

from hiper.engines import EngineSettings, Task, open_engine
from hiper.training import StopRequest

ENGINES = {"local": EngineSettings(workers=2), "ray": EngineSettings(name="ray")}


def make_work(should_stop: StopRequest) -> Callable[[int], int]:
    """Nothing to do."""
    return lambda number: number


def measured(settings: EngineSettings, count: int) -> dict[str, float]:
    """Run `count` tasks."""
    tasks = deque(Task(payload=i) for i in range(count))
    begun = time.perf_counter()
    results = iter(open_engine(settings).run(tasks, make_work, lambda: None))
    next(results)
    first, used = time.perf_counter(), time.process_time()
    rest = sum(1 for _ in zip(results, range(count - 2), strict=False))
    ended, spent = time.perf_counter(), time.process_time()
    for _ in results:
        pass
    return {
        "start_seconds": round(first - begun, 2),
        "dispatch_seconds": round((ended - first) / rest, 5),
        "driver_seconds": round((spent - used) / rest, 5),
    }


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = options(__doc__)
    parser.add_argument("--tasks", type=int, default=300)
    arguments = parser.parse_args()
    report = {
        "tasks": arguments.tasks,
        **{name: measured(settings, arguments.tasks) for name, settings in ENGINES.items()},
    }
    finish(arguments.out, report)


if __name__ == "__main__":
    main()
