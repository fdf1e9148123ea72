"""kill -9 at random moments: nothing is ever half there, and the same command goes on to the same bits.

HIPER_KILLS=200 HIPER_KILLS_SEED=1 python -m pytest tests/test_kills.py -s   kills that often, at other moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hiper.artifacts import Artifact
from hiper.training import TrainingState
from tests import tiny
from tests.processes import Running, run, start
from tests.small_suite import NAME, installed

KILLS = int(os.environ.get("HIPER_KILLS", "8"))
SEED = int(os.environ.get("HIPER_KILLS_SEED", "0"))
CLOCK_READINGS = (
    "fit_seconds",
    "edit_seconds",
    "artifact_bytes",
    "cost",
)  # seconds take more digits or fewer

Words = tuple[str | Path, ...]
Job = Callable[[Path], Words]
"""The command that works in a folder."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("installed")):
        yield


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[str, Job]:
    folder = tmp_path_factory.mktemp("inputs")
    dog, tail = folder / "dog.png", folder / "tail.safetensors"
    tiny.picture().save(dog)
    fit: Words = ("fit", dog, "--caption", "a standing dog", "--backbone", model_folder, "--quiet")
    assert run(folder, *fit, "-o", "num_train_steps=1", "--out", tail).status == 0
    steps: Words = ("-o", "num_train_steps=12", "--checkpoint-every", "0")
    draw: Words = ("--images", "5", "--batch-size", "1", "--num-inference-steps", "2", "--quiet")
    lines = [
        {"image": "dog.png", "caption": f"a {word} dog", "sentences": ["a dog"]} for word in ("red", "blue")
    ]
    (folder / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    quick: Words = ("--together", "1", "-o", "num_train_steps=2", "-o", "num_inference_steps=2", "--quiet")
    batch: Words = ("batch", folder / "jobs.jsonl", "--backbone", model_folder, *quick)
    arms = [f"{arm},num_train_steps=2,batch=1,num_inference_steps=2" for arm in ("hiper", "random-tail")]
    bench: Words = ("bench", "run", NAME, "--backbone", model_folder, "--quiet", "--seeds", "1")
    return {
        "fit": lambda there: (*fit, *steps, "--out", there / "dog.safetensors"),
        "edit": lambda there: ("edit", tail, "a dog", "a sitting dog", *draw, "--out", there),
        "batch": lambda there: (*batch, "--out", there),
        "bench": lambda there: (*bench, "--methods", arms[0], "--methods", arms[1], "--out", there),
    }


AGAIN: dict[str, Words] = {"fit": ("--resume",), "edit": ("--overwrite",), "bench": (), "batch": ()}
"""What is added to a command to repeat it after a kill."""


@pytest.mark.parametrize("name", AGAIN)
def test_a_kill_at_any_moment_costs_nothing_but_time(tmp_path: Path, jobs: dict[str, Job], name: str) -> None:
    begun = time.monotonic()
    expected = undisturbed(tmp_path / "undisturbed", jobs[name])
    seconds = time.monotonic() - begun
    moments = random.Random(f"{name} {SEED}")
    tally: Counter[str] = Counter()
    for number in range(-(-KILLS // len(AGAIN))):
        folder = tmp_path / str(number)
        killed = launch(folder, jobs[name])
        time.sleep(moments.uniform(0, seconds))
        with suppress(ProcessLookupError):  # it was faster
            killed.send(signal.SIGKILL)
        ended = killed.wait().status
        there = contents(folder / "out")
        assert there.items() <= expected.items(), (number, sorted(there))
        saved = there or list((folder / "out").glob("*.checkpoint"))
        tally["after its end" if ended == 0 else "half-way" if saved else "before the first file"] += 1
        again = launch(
            folder, jobs[name], *(AGAIN[name] if ended else ("--overwrite",) * (name in ("fit", "edit")))
        )
        outcome = again.wait()
        assert outcome.status == 0, outcome
        assert contents(folder / "out") == expected
        assert not [path for path in (folder / "out").rglob("*") if path.suffix in (".lock", ".checkpoint")]
    print(f"{name}: {sum(tally.values())} kills within {seconds:.1f} s: {dict(tally)}")


def undisturbed(folder: Path, job: Job) -> dict[str, object]:
    outcome = launch(folder, job).wait()
    assert outcome.status == 0, outcome
    return contents(folder / "out")


def launch(folder: Path, job: Job, *more: str | Path) -> Running:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return start(folder, *job(folder / "out"), *more)


def contents(folder: Path) -> dict[str, object]:
    """Every file under a final name, whole, without the seconds it took; a checkpoint must be whole too.

    Of a batch, the files of its jobs: its summary tells rates.
    """
    found = {}
    folder = folder / "jobs" if (folder / "jobs").is_dir() else folder
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".checkpoint":
            TrainingState.from_file(path)
        elif path.is_file() and path.suffix not in (".lock", ".tmp"):
            found[name] = _content(path)
    return found


def _content(path: Path) -> object:
    if path.suffix == ".safetensors":
        artifact = Artifact.load(path)
        figures = {name: value for name, value in artifact.figures.items() if name != "seconds"}
        return replace(artifact, figures=figures, created="").to_bytes()
    if path.suffix == ".json":
        record = json.loads(path.read_text())
        return json.dumps({name: value for name, value in record.items() if name not in CLOCK_READINGS})
    return path.read_bytes()
