"""A batch on a real Ray, whose workers are killed in the middle: byte for byte what one process makes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests import tiny
from tests.processes import Running, start
from tests.processes import run as command
from tests.test_batch import reach, results

JOBS = 12
KILLS = 2
APART = 3
"""Jobs finished between two kills, so that no job is killed as often as workers are tried."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs hiper[ray]"),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the workers"),
]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    shutil.copytree(model_folder, folder / "model")
    tiny.picture().save(folder / "dog.png")
    line = {
        "image": "dog.png",
        "caption": "a red dog",
        "sentences": ["a cat"],
        "edit": {"num_inference_steps": 2},
    }
    lines = [
        {**line, "backbone": "model", "options": {"num_train_steps": 2, "batch": 2, "seed": i}}
        for i in range(JOBS)
    ]
    (folder / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "jobs.jsonl"


def working(running: Running) -> list[int]:
    """The Ray workers of a command that have a task at the moment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title = (place / "cmdline").read_bytes()
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            grandparent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # it has just ended
            continue
        if title.startswith(b"ray::_Worker.perform") and running.pid in (parent, grandparent):
            found.append(int(place.name))
    return found


def test_killed_workers_change_no_byte(jobs: Path, tmp_path: Path) -> None:
    assert command(tmp_path, "batch", jobs, "--out", tmp_path / "whole", "--quiet").status == 0
    out = tmp_path / "ray"
    stopped = start(tmp_path, "batch", jobs, "--out", out, "--engine", "ray")
    reach(stopped, out, 1)
    stopped.send(signal.SIGTERM)
    outcome = stopped.wait()
    assert outcome.status == 143, outcome
    assert "the same command continues from there" in outcome.err.splitlines()[-1]
    there = len(list(out.rglob("record.json")))
    running = start(tmp_path, "batch", jobs, "--out", out, "--engine", "ray", "--json")
    for kill in range(KILLS):
        reach(running, out, min(there + APART * kill + 1, JOBS - 1))
        running.wait_until(lambda: bool(working(running)))
        os.kill(working(running)[0], signal.SIGKILL)
    outcome = running.wait()
    assert outcome.status == 0, outcome
    assert json.loads(outcome.out)["done"] == JOBS - there
    assert "Traceback" not in outcome.err
    assert results(out) == results(tmp_path / "whole")
    assert len(list((out / "jobs").iterdir())) == JOBS
