"""The simulation against what can be worked out on paper."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from benchmarks.scale_simulation import Site, simulate

SITE = Site(
    start_seconds=5,
    job_seconds=20,
    jitter=0,
    model_bytes=0,
    result_bytes=0,
    storage_bytes_per_second=1e9,
    link_bytes_per_second=1e9,
    dispatch_seconds=0,
    hours_between_failures=0,
)


@pytest.mark.parametrize("workers", [1, 3, 7, 1000])
def test_without_bottleneck_or_failure_time_is_jobs_over_workers(workers: int) -> None:
    outcome = simulate(SITE, workers=workers, jobs=21, seed=0)
    assert outcome.hours * 3600 == pytest.approx(5 + 20 * -(-21 // workers))
    assert outcome.failures == 0


def test_a_driver_that_is_asked_too_often_sets_the_pace() -> None:
    outcome = simulate(replace(SITE, dispatch_seconds=1), workers=200, jobs=2000, seed=0)
    assert outcome.hours * 3600 == pytest.approx(5 + 2000 + 20)
    assert outcome.driver_busy == pytest.approx(2000 / 2025)


def test_models_come_one_after_the_other_from_the_storage() -> None:
    outcome = simulate(replace(SITE, model_bytes=1e9), workers=10, jobs=10, seed=0)
    assert outcome.hours * 3600 == pytest.approx(5 + 10 + 20)


def test_failures_cost_their_jobs_and_a_new_start_but_no_result() -> None:
    """A job of length t on a worker that fails at a rate r takes (e^(rt) - 1) / r, and e^(rt) - 1 failures."""
    site = replace(SITE, job_seconds=1800, start_seconds=0, hours_between_failures=1)
    outcome = simulate(site, workers=1, jobs=3000, seed=1)
    per_job = 3600 * (math.exp(0.5) - 1)
    assert outcome.hours * 3600 / 3000 == pytest.approx(per_job, rel=0.05)
    assert outcome.failures == pytest.approx(3000 * (math.exp(0.5) - 1), rel=0.1)


def test_the_seed_decides() -> None:
    site = replace(SITE, jitter=0.2, hours_between_failures=0.1)
    runs = [simulate(site, workers=5, jobs=200, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
