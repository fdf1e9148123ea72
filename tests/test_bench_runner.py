"""A run on a tiny real model: what it leaves, what it skips, and that neither kills nor processes change it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiper.artifacts import Artifact
from hiper.bench import Done, SuiteSpec, build_report, open_suite, parse_arm
from hiper.bench import run as run_suite
from hiper.bench.records import Run
from hiper.engines import EngineSettings
from hiper.errors import HiperError, Interrupted, OptionError, OutputError
from hiper.options import deterministic
from tests import tiny
from tests.conftest import Cli
from tests.processes import Running, start
from tests.small_suite import COLOURS, EDITS, NAME, installed

QUICK = "num_train_steps=2,batch=1,num_inference_steps=2"
ARMS = (
    f"hiper,{QUICK}",
    "none,num_inference_steps=2",
    "truth",
    f"random-tail,{QUICK}",
    f"other-tail,{QUICK}",
    "source",
)
CELLS = len(ARMS) * len(COLOURS) * len(EDITS) * 2
SPEC = SuiteSpec(name=NAME)
COSTS = (
    "fit_seconds",
    "edit_seconds",
    "artifact_bytes",
)  # the size of a file depends on the digits of its seconds

Words = tuple[str | Path, ...]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:the fit did not lower the loss")]


@pytest.fixture(scope="module", autouse=True)
def _suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("installed")):
        yield


@pytest.fixture(scope="module")
def words(model_folder: Path) -> Words:
    arms = [word for arm in ARMS for word in ("--methods", arm)]
    return ("bench", "run", NAME, "--backbone", model_folder, *arms)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A complete run, made in this process; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the fit did not lower the loss")
        done = run_suite(SPEC, str(model_folder), ARMS, folder)
    assert done == Done(cells=CELLS, drawn=CELLS)
    return folder


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    """Every cell without what it cost."""
    paths = sorted((folder / "cells").rglob("*.json"))
    records = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in paths}
    return {
        name: {key: value for key, value in record.items() if key not in COSTS}
        for name, record in records.items()
    }


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def tails(folder: Path) -> dict[str, bytes]:
    paths = sorted((folder / "fits").rglob("*.safetensors"))
    return {
        str(path.relative_to(folder)): Artifact.load(path).tensors["tail"].numpy().tobytes() for path in paths
    }


def assert_same(folder: Path, other: Path) -> None:
    assert cells(folder) == cells(other)
    assert pictures(folder) == pictures(other)
    assert tails(folder) == tails(other)
    assert (folder / "run.json").read_bytes() == (other / "run.json").read_bytes()


def count(folder: Path) -> int:
    return sum(1 for _ in (folder / "cells").rglob("*.json"))


def reach(running: Running, folder: Path, wanted: int) -> None:
    running.wait_until(lambda: count(folder) >= wanted)


# what a run leaves


def test_a_cell_holds_what_a_report_needs(whole: Path, model_folder: Path) -> None:
    run_record = Run.load(whole)
    assert count(whole) == CELLS
    hiper = next(arm for arm in run_record.arms if arm.startswith("hiper"))
    path = run_record.paths(whole, hiper, "ben")["moved", 1]
    record = json.loads(path.read_text())
    suite = open_suite(SPEC)
    case = suite.cases("ben")[0]
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.size == (tiny.RESOLUTION, tiny.RESOLUTION)
        assert record["scores"] == suite.score(case, picture.convert("RGB"))
    fit = whole / "fits" / parse_arm(hiper).fitted().slug / "ben.safetensors"
    assert record["fit_seconds"] == Artifact.load(fit).figures["seconds"]
    assert record["artifact_bytes"] == fit.stat().st_size
    assert (record["arm"], record["subject"], record["edit"], record["seed"]) == (hiper, "ben", "moved", 1)
    assert record["prompt"] == case.target_caption
    assert record["suite"] == {"suite": NAME, "split": "test", "seed": 0}
    assert record["options"]["num_train_steps"] == 2
    assert record["settings"] == {
        "strength": 0.8,
        "guidance_scale": 7.5,
        "num_inference_steps": 2,
        "scheduler": "ddim",
        "keep": 0.5,
    }
    assert record["edit_seconds"] > 0
    assert set(record["versions"]) == {"hiper", "torch", "diffusers", "transformers"}


def test_controls_borrow_the_fits(whole: Path) -> None:
    slug = parse_arm(f"hiper,{QUICK}").fitted().slug
    assert [path.name for path in (whole / "fits").iterdir()] == [slug]
    assert sorted(path.name for path in (whole / "fits" / slug).iterdir()) == [
        f"{name}.safetensors" for name in COLOURS
    ]


def test_sources_and_truths_are_kept(whole: Path) -> None:
    suite = open_suite(SPEC)
    for subject in COLOURS:
        names = sorted(path.name for path in (whole / "subjects" / subject).iterdir())
        assert names == ["dark-truth.png", "moved-truth.png", "source.png"]
        with Image.open(whole / "subjects" / subject / "source.png") as source:
            expected = suite.cases(subject)[0].source.resize((tiny.RESOLUTION,) * 2, Image.Resampling.LANCZOS)
            assert np.array_equal(np.asarray(source), np.asarray(expected))


def test_a_complete_run_is_not_drawn_again(whole: Path, model_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.*") if path.name != "run.json"}
    assert run_suite(SPEC, str(model_folder), ARMS, whole) == Done(cells=CELLS, drawn=0)
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*.*") if path.name != "run.json"}


def test_a_run_grows(whole: Path, tmp_path: Path, model_folder: Path) -> None:
    """Arm by arm, subject by subject, seed by seed: what comes out is the same."""
    model, folder = str(model_folder), tmp_path / "run"
    assert run_suite(SPEC, model, ARMS[:1], folder, limit=1, seeds=2).drawn == 4
    assert run_suite(SPEC, model, ARMS[:2], folder, limit=2).drawn == 12
    assert build_report(folder).missing == 0
    assert run_suite(SPEC, model, ARMS, folder).drawn == CELLS - 16
    assert_same(folder, whole)
    assert run_suite(SPEC, model, ["source"], folder, seeds=3).drawn == len(COLOURS) * len(EDITS)
    assert build_report(folder).missing == (len(ARMS) - 1) * len(COLOURS) * len(EDITS)


def test_a_picture_without_its_record_is_drawn_again(whole: Path, tmp_path: Path, model_folder: Path) -> None:
    folder = tmp_path / "run"
    run_suite(SPEC, str(model_folder), ["none,num_inference_steps=2"], folder, limit=1)
    path = Run.load(folder).paths(folder, "none,num_inference_steps=2", "ann")["moved", 1]
    whole_path = whole / path.relative_to(folder)
    path.unlink()
    path.with_suffix(".png").write_bytes(b"half a pic")
    assert run_suite(SPEC, str(model_folder), ["none,num_inference_steps=2"], folder, limit=1).drawn == 1
    assert path.with_suffix(".png").read_bytes() == whole_path.with_suffix(".png").read_bytes()


# refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"suite": SuiteSpec(name=NAME, seed=1)}, ["seed is 0 there and 1 here"]),
        ({"suite": SuiteSpec(name=NAME, split="tuning")}, ["split is 'test' there and 'tuning' here"]),
        ({"dtype": "bfloat16"}, ["dtype is 'float32' there and 'bfloat16' here"]),
    ],
)
def test_a_folder_of_another_run_is_refused(
    whole: Path, model_folder: Path, change: dict[str, Any], words: list[str]
) -> None:
    arguments = {"suite": SPEC, "backbone": str(model_folder), "arms": ["source"], "folder": whole, **change}
    before = (whole / "run.json").read_bytes()
    with pytest.raises(OutputError) as refused:
        run_suite(**arguments)
    assert all(word in str(refused.value) for word in [*words, "choose another folder"]), refused.value
    assert (whole / "run.json").read_bytes() == before


def test_a_folder_of_another_model_is_refused(whole: Path, tmp_path: Path) -> None:
    tiny.pipeline(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(OutputError, match="weights_sha256 is"):
        run_suite(SPEC, str(tmp_path / "other"), ["source"], whole)


def test_an_arm_that_means_something_else_by_now_is_refused(
    whole: Path, tmp_path: Path, model_folder: Path
) -> None:
    run_suite(SPEC, str(model_folder), ["source", "none,num_inference_steps=2"], tmp_path, limit=1, seeds=1)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"num_inference_steps": 2', '"num_inference_steps": 3'))
    with pytest.raises(OutputError, match="num_inference_steps=3 there and num_inference_steps=2 here"):
        run_suite(SPEC, str(model_folder), ["none,num_inference_steps=2"], tmp_path, limit=1, seeds=1)


@pytest.mark.parametrize("change", [{"seeds": 0}, {"limit": 0}, {"arms": []}, {"arms": ["hipr"]}])
def test_mistakes_leave_nothing_behind(tmp_path: Path, model_folder: Path, change: dict[str, Any]) -> None:
    arguments = {"arms": ["source"], **change}
    with pytest.raises(OptionError):
        run_suite(SPEC, str(model_folder), folder=tmp_path / "run", **arguments)
    assert not list(tmp_path.iterdir())


def test_the_command_line_refuses_in_one_line(cli: Cli, tmp_path: Path, words: Words) -> None:
    cli(*words, "--out", tmp_path / "run", "--methods", "nonee", "--quiet").refusal("did you mean none?")
    (tmp_path / "file").write_text("")
    cli(*words, "--out", tmp_path / "file", "--quiet").refusal("cannot create the folder")
    assert not (tmp_path / "run").exists()


# interruptions


def test_a_signal_is_answered_and_nothing_is_lost(tmp_path: Path, model_folder: Path, whole: Path) -> None:
    asked = 0

    def should_stop() -> int | None:
        nonlocal asked
        asked += 1
        return signal.SIGTERM if asked == 40 else None

    folder = tmp_path / "run"
    with pytest.raises(Interrupted) as stopped:
        run_suite(SPEC, str(model_folder), ARMS, folder, should_stop=should_stop)
    assert stopped.value.exit_status == 143
    assert 0 < count(folder) < CELLS
    assert not list(folder.rglob("*.lock"))
    there = count(folder)
    assert run_suite(SPEC, str(model_folder), ARMS, folder).drawn == CELLS - there
    assert_same(folder, whole)


def test_a_killed_run_goes_on_to_the_same_bytes(cli: Cli, tmp_path: Path, words: Words, whole: Path) -> None:
    folder = tmp_path / "run"
    killed = start(tmp_path, *words, "--out", folder)
    reach(killed, folder, 3)
    killed.send(signal.SIGKILL)
    assert killed.wait().status == -signal.SIGKILL
    assert 3 <= count(folder) < CELLS
    there = count(folder)
    stopped = start(tmp_path, *words, "--out", folder)
    reach(stopped, folder, there + 1)
    stopped.send(signal.SIGINT)
    outcome = stopped.wait()
    assert outcome.status == 130
    assert "the same command continues" in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err
    there = count(folder)
    last = cli(*words, "--out", folder, "--json")
    assert last.status == 0, last
    assert json.loads(last.out)["drawn"] == CELLS - there
    assert_same(folder, whole)


def test_two_runs_of_one_folder_are_kept_apart(cli: Cli, tmp_path: Path, words: Words) -> None:
    folder = tmp_path / "run"
    first = start(tmp_path, *words, "--out", folder)
    reach(first, folder, 1)
    cli(*words, "--out", folder, "--quiet").refusal(f"in use by process {first.pid}")
    first.send(signal.SIGKILL)
    first.wait()


# several processes


def children(running: Running) -> list[int]:
    """The processes that draw for a run; not the one that looks after their semaphores."""
    pids = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    return [int(pid) for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the processes")
def test_another_process_goes_on_for_one_that_dies_and_two_draw_what_one_draws(
    tmp_path: Path, words: Words, whole: Path
) -> None:
    folder = tmp_path / "run"
    running = start(tmp_path, *words, "--out", folder, "--jobs", "2")
    reach(running, folder, 3)
    os.kill(children(running)[0], signal.SIGKILL)
    outcome = running.wait()
    assert outcome.status == 0, outcome
    assert "Traceback" not in outcome.err
    assert_same(folder, whole)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs hiper[ray]")
def test_ray_draws_what_one_process_draws(tmp_path: Path, words: Words, whole: Path) -> None:
    folder = tmp_path / "run"
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}  # the suite's distribution is not installed
    running = start(tmp_path, *words, "--out", folder, "--engine", "ray", "--json", environment=path)
    outcome = running.wait()
    assert outcome.status == 0, outcome
    assert json.loads(outcome.out)["drawn"] == CELLS
    assert_same(folder, whole)


def test_an_error_in_a_process_is_told(tmp_path: Path, model_folder: Path) -> None:
    """Its place is taken by a file, which only shows when it is to be written to; processes compute as this one."""
    folder = tmp_path / "run"
    with deterministic():
        run_suite(SPEC, str(model_folder), ["source"], folder, limit=1, seeds=1)
    (folder / "cells" / "truth").write_text("")
    with deterministic(), pytest.raises(HiperError, match="cannot create the folder"):
        run_suite(SPEC, str(model_folder), ["truth"], folder, seeds=1, engine=EngineSettings(isolated=True))
