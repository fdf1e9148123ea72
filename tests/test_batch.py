"""A batch on a tiny real model: what it leaves, what it skips, and what does not stop it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import hiper
from hiper.artifacts import Artifact
from hiper.batch import BatchReport, BatchSettings, Defaults, read_jobs, run
from hiper.engines import EngineSettings
from hiper.errors import BackboneError, Interrupted
from hiper.images import Subject
from tests import tiny
from tests.conftest import Cli
from tests.processes import Running, start
from tests.processes import run as command

QUICK: dict[str, Any] = {"num_train_steps": 2, "batch": 2}
GOOD = 5

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:the fit did not lower the loss")]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """Five jobs that can be done and two that cannot; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("jobs")
    shutil.copytree(model_folder, folder / "model")
    for i in range(GOOD):
        tiny.picture(64 + i).rotate(90 * i).save(folder / f"{i}.png")
    lines: list[dict[str, Any]] = [
        {
            "image": f"{i}.png",
            "name": f"<b>{i}</b>",
            "caption": f"a {'red' if i % 2 else 'blue'} dog",
            "sentences": ["a sitting dog"],
            "seeds": [i, 7],
            "options": {**QUICK, "seed": i},
            "edit": {"num_inference_steps": 2},
        }
        for i in range(GOOD)
    ]
    lines.insert(2, {"image": "missing.png", "caption": "a dog"})
    lines.insert(4, {"image": "0.png", "captoin": "a dog"})
    (folder / "jobs.jsonl").write_text("\n".join(json.dumps({"backbone": "model", **line}) for line in lines))
    return folder / "jobs.jsonl"


def do(path: Path, out: Path | str, **options: Any) -> BatchReport:
    settings = {
        name: options.pop(name) for name in ("retry", "together", "seconds", "trusted") if name in options
    }
    return run(read_jobs(path, Defaults()), str(out), BatchSettings(**settings), **options)


def counts(report: BatchReport) -> dict[str, int]:
    return {
        status: number
        for status in ("done", "reused", "failed", "waiting")
        if (number := report.count(status))
    }


def results(out: Path) -> dict[str, bytes]:
    """Every file of every job, its record without what it cost."""
    found = {}
    for path in sorted((out / "jobs").rglob("*.*")):
        data = path.read_bytes()
        if path.name == "record.json":
            data = json.dumps({k: v for k, v in json.loads(data).items() if k != "cost"}).encode()
        found[path.relative_to(out).as_posix()] = data
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, jobs: Path) -> Path:
    """A batch done in one go in this process; not to be changed by a test."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert counts(do(jobs, out)) == {"done": GOOD, "failed": 2}
    return out


# what it leaves


def test_a_job_leaves_its_artifact_its_pictures_and_its_record(whole: Path, jobs: Path) -> None:
    (place,) = (whole / "jobs").glob("b-3-b-*")
    files = "a-sitting-dog-3.png a-sitting-dog-7.png artifact.safetensors record.json source.png"
    assert sorted(path.name for path in place.iterdir()) == files.split()
    record = json.loads((place / "record.json").read_text())
    assert (record["status"], record["job"]["name"], record["fitted_together"]) == ("done", "<b>3</b>", 2)
    assert set(record["cost"]) == {"fit_seconds", "edit_seconds", "finished"}
    backbone = hiper.load_backbone(jobs.parent / "model")
    artifact = Artifact.load(place / "artifact.safetensors")
    subject = Subject.open(jobs.parent / "3.png", caption="a red dog")
    alone = hiper.fit(backbone, subject, preset="auto", seed=3, **QUICK)
    assert torch.allclose(artifact.tensors["tail"], alone.tensors["tail"], rtol=0, atol=1e-4)
    drawn = hiper.edit(backbone, artifact, "a sitting dog", seeds=[3, 7], num_inference_steps=2)
    for seed, image in zip((3, 7), drawn.images, strict=True):
        with Image.open(place / f"a-sitting-dog-{seed}.png") as picture:
            assert picture.convert("RGB").tobytes() == image.tobytes()
    with Image.open(place / "source.png") as source:
        assert source.size == (tiny.RESOLUTION,) * 2


def test_failures_are_recorded_with_their_reasons(whole: Path) -> None:
    records = [json.loads(path.read_text()) for path in sorted((whole / "failed").iterdir())]
    assert [(record["error"], record["traceback"]) for record in records] == [
        ("OptionError", None),
        ("ImageError", None),
    ]
    assert "did you mean caption?" in records[0]["reason"]
    assert "missing.png': no such file" in records[1]["reason"]
    assert records[1]["job"]["image"] == "missing.png"


def test_texts_that_are_none_fail_alone_and_the_batch_ends(jobs: Path, tmp_path: Path) -> None:
    """Half characters and NUL, as captions, names and places."""
    good: dict[str, Any] = {
        "image": "0.png",
        "caption": "a dog",
        "sentences": [],
        "options": QUICK,
        "backbone": "model",
    }
    bad: list[dict[str, Any]] = [
        {"caption": "a \ud800 dog"},
        {"sentences": ["\udfff"]},
        {"image": "\ud800.png"},
        {"image": "nul\0.png"},
        {"mask": "\udcff.png"},
        {"image": "\ud800.png", "name": "\x1b[31m\ud800"},
        {"backbone": "nul\0"},
    ]
    path = beside(jobs, *[{**good, **change} for change in ({}, *bad)])
    for capture in ("first", "again"):
        report = do(path, tmp_path / "out")
        assert counts(report) == {"done" if capture == "first" else "reused": 1, "failed": len(bad)}
    assert json.loads((tmp_path / "out" / "summary.json").read_bytes())["failed"] == len(bad)


def test_what_the_user_should_know_of_a_job_reaches_the_summary(jobs: Path, tmp_path: Path) -> None:
    job = {
        "image": "0.png",
        "caption": "a dog",
        "backbone": "model",
        "sentences": ["cat.txt"],
        "options": QUICK,
        "edit": {"num_inference_steps": 2},
    }
    report = do(beside(jobs, job), tmp_path / "out")
    (entry,) = report.entries.values()
    assert any("'cat.txt', which reads like a file's name" in note for note in entry.notes)
    (record,) = (tmp_path / "out").glob("jobs/*/record.json")
    assert set(entry.notes) >= set(json.loads(record.read_text())["notes"]) > set()
    assert "reads like a file" in (tmp_path / "out" / "summary.html").read_text()


def test_the_summary_tells_all_and_trusts_nobody(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["jobs"], summary["done"], summary["failed"]) == (GOOD + 2, GOOD, 2)
    assert len(summary["entries"]) == GOOD + 2
    page = (whole / "summary.html").read_text()
    assert page.count("<img") == 3 * GOOD
    assert "&lt;b&gt;0&lt;/b&gt;" in page
    assert "missing.png" in page
    assert not any(word in page for word in ("<b>", "<script", "http:", "https:"))


# what it skips


def test_what_is_done_is_not_done_again(whole: Path, jobs: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    before = results(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "jobs").rglob("*.*")}
    assert counts(do(jobs, tmp_path / "out")) == {"reused": GOOD, "failed": 2}
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "jobs").rglob("*.*")}
    gone, cut = sorted((tmp_path / "out" / "jobs").rglob("*-7.png"))[:2]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    report = do(jobs, tmp_path / "out")
    assert counts(report) == {"done": 2, "reused": GOOD - 2, "failed": 2}
    assert results(tmp_path / "out") == before
    notes = [note for entry in report.entries.values() for note in entry.notes if "done again" in note]
    assert len(notes) == 2
    for path in (gone, cut):
        assert any(path.relative_to(tmp_path / "out").as_posix() in note for note in notes)


def test_a_damaged_record_of_a_failure_keeps_no_other_job_back(
    whole: Path, jobs: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    record, other = sorted((tmp_path / "out" / "failed").iterdir())
    before = json.loads(other.read_text())["reason"]
    for path in (record, other):
        path.write_text("{")
    assert counts(do(jobs, tmp_path / "out")) == {"reused": GOOD, "failed": 2}
    assert json.loads(other.read_text())["reason"] == before


def beside(jobs: Path, *lines: str | dict[str, Any]) -> Path:
    """Another job file in the same folder."""
    path = jobs.parent / "other.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_neither_order_nor_company_changes_a_byte(whole: Path, jobs: Path, tmp_path: Path) -> None:
    lines = jobs.read_text().splitlines()
    assert counts(do(beside(jobs, lines[5], lines[0]), tmp_path)) == {"done": 2}
    assert counts(do(beside(jobs, *reversed(lines)), tmp_path)) == {
        "done": GOOD - 2,
        "reused": 2,
        "failed": 2,
    }
    assert results(tmp_path) == results(whole)


def test_what_failed_stays_failed_until_it_is_mended_or_retried(jobs: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "again", tmp_path / "out"
    shutil.copytree(jobs.parent, folder)
    lines = jobs.read_text().splitlines()
    (folder / "1.png").write_bytes(b"\x89PNG no picture")
    path = folder / "jobs.jsonl"
    path.write_text("\n".join([lines[0], lines[1], lines[2]]))
    assert counts(do(path, out)) == {"done": 1, "failed": 2}
    failed = {p: p.stat().st_mtime_ns for p in (out / "failed").glob("b-1-b-*")}
    assert counts(do(path, out)) == {"reused": 1, "failed": 2}
    assert failed == {p: p.stat().st_mtime_ns for p in (out / "failed").glob("b-1-b-*")}
    assert counts(do(path, out, retry=True)) == {"reused": 1, "failed": 2}
    assert failed != {p: p.stat().st_mtime_ns for p in (out / "failed").glob("b-1-b-*")}
    path.write_text("\n".join(lines[:4]))
    tiny.picture().save(folder / "missing.png")
    report = do(path, out, retry=True)
    assert counts(report) == {"done": 1, "reused": 1, "failed": 1, "waiting": 1}
    assert not report.succeeded
    tiny.picture().save(folder / "1.png")
    report = do(path, out)
    assert counts(report) == {"done": 2, "reused": 2}
    assert report.succeeded
    assert not list((out / "failed").iterdir())


def test_an_object_store_gets_the_same_files(whole: Path, jobs: Path) -> None:
    import fsspec

    do(jobs, "memory://batch/out")
    system = fsspec.filesystem("memory")
    for name, data in results(whole).items():
        if not name.endswith("record.json"):
            assert system.cat_file(f"/batch/out/{name}") == data
    assert json.loads(system.cat_file("/batch/out/summary.json"))["done"] == GOOD
    assert counts(do(jobs, "memory://batch/out")) == {"reused": GOOD, "failed": 2}


# what does not stop it, and what does


def test_a_model_that_cannot_be_had_stops_its_own_jobs_only(jobs: Path, tmp_path: Path) -> None:
    good, other = (json.loads(line) for line in jobs.read_text().splitlines()[:2])
    other["backbone"] = "nobody/there"
    report = do(beside(jobs, good, other), tmp_path / "out")
    assert counts(report) == {"done": 1, "failed": 1}
    (entry,) = [entry for entry in report.entries.values() if entry.status == "failed"]
    assert entry.kind == "BackboneError"
    with pytest.raises(BackboneError):
        do(beside(jobs, other), tmp_path / "none")
    assert not (tmp_path / "none" / "failed").exists()


def stop_after(calls: int) -> Callable[[], int | None]:
    count = iter(range(calls))
    return lambda: None if next(count, None) is not None else signal.SIGTERM


def test_a_signal_is_answered_and_the_batch_goes_on_to_the_same_bytes(
    jobs: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        do(jobs, out, should_stop=stop_after(8))
    assert json.loads((out / "summary.json").read_text())["waiting"] > 0
    assert 0 < len(results(out)) < len(results(whole))
    do(jobs, out)
    assert results(out) == results(whole)


def reach(running: Running, out: Path, wanted: int) -> None:
    running.wait_until(lambda: len(list(out.rglob("record.json"))) >= wanted)


def test_a_killed_batch_goes_on_to_the_same_bytes(jobs: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("batch", jobs, "--out", out, "--workers", "2")
    killed = start(tmp_path, *words)
    reach(killed, out, 1)
    command(tmp_path, *words, "--quiet").refusal(f"in use by process {killed.pid}")
    killed.send(signal.SIGKILL)
    assert killed.wait().status == -signal.SIGKILL
    outcome = command(tmp_path, *words, "--json")
    assert outcome.status == 1, outcome
    printed = json.loads(outcome.out)
    assert (printed["jobs"], printed["failed"], printed["done"] + printed["reused"]) == (GOOD + 2, 2, GOOD)
    assert "2 jobs failed, the first" in outcome.err.splitlines()[-1]
    assert results(out) == results(whole)


def test_a_job_that_takes_too_long_is_that_jobs_failure(jobs: Path, tmp_path: Path) -> None:
    line = json.loads(jobs.read_text().splitlines()[0])
    slow = {**line, "name": "slow", "options": {**line["options"], "num_train_steps": 1_000_000}}
    done = do(beside(jobs, line), tmp_path)
    assert counts(done) == {"done": 1}
    report = do(beside(jobs, slow, line), tmp_path, seconds=3, together=1)
    assert counts(report) == {"reused": 1, "failed": 1}
    (entry,) = [entry for entry in report.entries.values() if entry.status == "failed"]
    assert (entry.name, entry.kind) == ("slow", "TimeLimitError")


def test_a_job_that_needs_too_much_memory_is_that_jobs_failure(jobs: Path, tmp_path: Path) -> None:
    line = json.loads(jobs.read_text().splitlines()[0])
    large = {**line, "name": "large", "edit": {"num_inference_steps": 1, "height": 4096, "width": 4096}}
    report = do(beside(jobs, large, line), tmp_path, engine=EngineSettings(memory_limit=1.5))
    assert counts(report) == {"done": 1, "failed": 1}
    (entry,) = [entry for entry in report.entries.values() if entry.status == "failed"]
    assert (entry.name, entry.kind) == ("large", "MemoryLimitError")


def test_mistakes_about_the_whole_command_are_told_in_one_line(cli: Cli, jobs: Path, tmp_path: Path) -> None:
    cli("batch", tmp_path / "none.jsonl", "--out", tmp_path / "out").refusal("cannot be read")
    cli("batch", jobs, "--out", tmp_path / "out", "--engine", "rey", "--quiet").refusal("did you mean ray?")
    cli("batch", jobs, "--out", tmp_path / "out", "--timeout", "0").refusal("--timeout is 0")
    (tmp_path / "file").write_text("")
    cli("batch", jobs, "--out", tmp_path / "file", "--quiet").refusal("cannot create the folder")
