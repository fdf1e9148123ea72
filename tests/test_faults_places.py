"""Places and models that fail under a running command: full and read-only disks, memory, clocks, changed weights."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hiper.artifacts import Artifact
from hiper.backbones import load_backbone
from hiper.bench import SuiteSpec
from hiper.bench import run as run_suite
from hiper.bench.records import Run
from hiper.engines import EngineSettings
from hiper.errors import HiperError
from tests import tiny
from tests.processes import forked, run
from tests.small_suite import NAME, installed

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:the fit did not lower the loss")]

FULL_DISK = """
import contextlib, io, shutil, subprocess, sys
from pathlib import Path
from hiper.files import atomic
from hiper.cli import main

model, inputs, disk = map(Path, sys.argv[1:])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk]).returncode:
    sys.exit(77)
ballast, begin_write = disk / "ballast", atomic._temporary_beside
writes, fails_at = 0, 0


def counted(target):
    # A probe of `check_writable` takes no room, so filling up before it changes nothing.
    global writes
    writes += 1
    if writes == fails_at:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    return begin_write(target)


atomic._temporary_beside = counted


def capture(words, at):
    global writes, fails_at
    writes, fails_at = 0, at
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        status = main([*map(str, words), "--quiet"])
    if at:
        ballast.unlink(missing_ok=True)
    return status, printed.getvalue()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


out = disk / "out"
fit = ["fit", inputs / "dog.png", "--caption", "a dog", "--backbone", model, "-o", "num_train_steps=3",
       "--checkpoint-every", "0", "--out", out / "dog.safetensors"]
edit = ["edit", inputs / "tail.safetensors", "a dog", "a cat", "--num-inference-steps", "1", "--images", "2",
        "--batch-size", "1", "--out", out]
batch = ["batch", inputs / "jobs.jsonl", "--backbone", model, "--out", out]
bench = ["bench", "run", inputs / "suite.toml", "--backbone", model, "--seeds", "1",
         "--methods", "hiper,num_inference_steps=2,num_train_steps=2", "--out", out]
for words, again in ((fit, ["--resume"]), (edit, ["--overwrite"]), (batch, ["--retry"]), (bench, [])):
    out.mkdir()
    assert capture(words, 0) == (0, "")
    whole, total = files(out), writes
    for at in range(1, total + 1):
        shutil.rmtree(out)
        out.mkdir()
        status, printed = capture(words, at)
        assert status in (0, 1, 2), (at, status, printed)
        assert status == 0 or (printed.count("\\n") == 1 and "no room" in printed), (at, printed)
        assert not [name for name in files(out) if name.endswith((".tmp", ".lock"))], files(out)
        if status:
            retried = capture([*words, *again], 0)
            assert retried[0] == 0 or capture(words, 0)[0] == 0, (at, retried)
        assert files(out) == whole, (at, files(out))
        print(words[0], at, status)
    shutil.rmtree(out)
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
for words in (fit, edit):
    status, printed = capture([*words[:-1], disk / "dog.safetensors" if words is fit else disk], 0)
    assert (status, printed.count("\\n")) == (2, 1) and "Read-only file system" in printed, printed
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny.picture().save(folder / "dog.png")
    assert run(folder, *fit_words(folder, model_folder), "--out", folder / "tail.safetensors").status == 0
    (folder / "jobs.jsonl").write_text(
        '{"image": "dog.png", "caption": "a dog", "sentences": ["a cat"],'
        ' "options": {"num_train_steps": 2}, "edit": {"num_inference_steps": 1}}'
    )
    (folder / "suite.toml").write_text(
        '[[subject]]\nname = "dog"\nimage = "dog.png"\ncaption = "a dog"\n'
        'edits = [{ name = "cat", caption = "a cat" }]\n'
    )
    return folder


def fit_words(inputs: Path, model: Path) -> tuple[str | Path, ...]:
    return (
        "fit",
        inputs / "dog.png",
        "--caption",
        "a dog",
        "--backbone",
        model,
        "-o",
        "num_train_steps=2",
        "--quiet",
    )


def test_a_disk_may_fill_up_at_any_write_or_be_read_only(
    tmp_path: Path, inputs: Path, model_folder: Path
) -> None:
    """Before the n-th file is begun, for every n, a real disk is filled to the last byte; later it is let go."""
    own = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run(["unshare", *own, "true"], check=False).returncode:
        pytest.skip("no mounts of one's own here; test_a_disk_that_fills_up_leaves_what_was_saved stands in")
    words = [sys.executable, "-c", FULL_DISK, str(model_folder), str(inputs), str(tmp_path)]
    done = subprocess.run(["unshare", *own, *words], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip(
            "a tmpfs cannot be mounted here; test_a_disk_that_fills_up_leaves_what_was_saved stands in"
        )
    assert done.returncode == 0, done.stderr
    failed = [line for line in done.stdout.splitlines() if not line.endswith(" 0")]
    assert {line.split()[0] for line in failed} == {"fit", "edit", "batch", "bench"}


def _starved(words: list[str], report: Path) -> None:
    """Run a command with 200 MB more than the libraries take."""
    from hiper.cli import main

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 200_000_000,) * 2)
    sys.stderr = report.open("w")
    sys.exit(main(words))


def test_too_little_memory_is_told_in_one_line(tmp_path: Path, inputs: Path, model_folder: Path) -> None:
    out, report = tmp_path / "dog.safetensors", tmp_path / "report"
    words = [*fit_words(inputs, model_folder), "-o", "batch=1024", "--out", out, "--device", "cpu"]
    assert forked(_starved, list(map(str, words)), report) == 1
    printed = report.read_text()
    assert printed.startswith("hiper: out of memory")
    assert printed.count("\n") == 1, printed
    assert not list(tmp_path.glob("dog*"))


TOKENS = 2_500_000
"""Of a text encoder whose table takes 320 MB, most of them never used."""


def _large(model_folder: Path, folder: Path) -> Path:
    """A model that takes more memory than there will be; its file is sparse, and takes no room."""
    shutil.copytree(model_folder, folder)
    config, file = folder / "text_encoder" / "config.json", folder / "text_encoder" / "model.safetensors"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": TOKENS}))
    shapes = {name: tensor.shape for name, tensor in load_file(file).items()}
    (table,) = (name for name in shapes if name.endswith("token_embedding.weight"))
    header, end = {}, 0
    for name, shape in {**shapes, table: (TOKENS, tiny.EMBED)}.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + end)
    return folder


def _starved_of(megabytes: int, words: list[str], report: Path) -> None:
    from hiper.cli import main

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 1_000_000,) * 2)
    sys.stderr = report.open("w")
    sys.exit(main(words))


@pytest.mark.parametrize(
    ("command", "megabytes"),  # to map the file, and to copy it
    [("fit", 250), ("fit", 500), ("batch", 250), ("bench", 500), ("estimate", 250)],
)
def test_too_little_memory_to_load_is_told_in_one_line(
    command: str, megabytes: int, tmp_path: Path, inputs: Path, model_folder: Path
) -> None:
    model, out, report = _large(model_folder, tmp_path / "large"), tmp_path / "out", tmp_path / "report"
    commands: dict[str, list[str | Path]] = {
        "fit": [*fit_words(inputs, model)[:-1], "--out", out],
        "batch": ["batch", inputs / "jobs.jsonl", "--out", out, "--backbone", model],
        "bench": [
            *("bench", "run", inputs / "suite.toml", "--methods", "hiper", "--out", out),
            *("--backbone", model),
        ],
        "estimate": ["estimate", "fit", "--backbone", model],
    }
    words = [*map(str, commands[command]), "--device", "cpu", "--quiet"]
    assert forked(_starved_of, megabytes, words, report) == 1, report.read_text()
    printed = report.read_text()
    assert printed.startswith("hiper: out of memory")
    assert printed.count("\n") == 1, printed


def _with_a_mad_clock(words: list[str], step: float) -> None:
    """Every look at the clock finds it further from where it was: days ahead, or days back."""
    from hiper.cli import main

    real, looks = time.time, iter(range(1, 10**9))
    time.time = lambda: real() + step * next(looks)
    sys.exit(main(words))


@pytest.mark.parametrize("days", [-40, 40])
def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, inputs: Path, model_folder: Path, days: int
) -> None:
    """Nor do files from the future: no decision looks at the date."""
    out = tmp_path / "dog.safetensors"
    words = [*fit_words(inputs, model_folder), "--out", out, "--checkpoint-every", "0"]
    os.utime(inputs / "dog.png", (4e9, 4e9))
    assert forked(_with_a_mad_clock, list(map(str, words)), days * 86400.0) == 0
    expected = Artifact.load(inputs / "tail.safetensors").tensors["tail"]
    assert torch.equal(Artifact.load(out).tensors["tail"], expected)


def test_a_model_that_is_overwritten_while_it_is_in_use(tmp_path: Path, model_folder: Path) -> None:
    """What was loaded is a copy in memory: the files may be cut short under it."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    backbone = load_backbone(str(folder))
    before = backbone.weights_sha256()
    for path in folder.rglob("*.safetensors"):
        with path.open("r+b") as file:
            file.truncate(100)
    assert backbone.weights_sha256() == before


def test_processes_that_find_another_model_than_their_run_stop(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run knows the weights it began with; its processes load the folder later."""
    folder, out = tmp_path / "model", tmp_path / "run"
    shutil.copytree(model_folder, folder)
    saved = Run.save

    def save_and_swap(self: Run, place: Path) -> None:
        saved(self, place)
        tiny.pipeline("sd1", seed=1).save_pretrained(folder)

    (tmp_path / "installed").mkdir()
    monkeypatch.setattr(Run, "save", save_and_swap)
    with (
        installed(tmp_path / "installed"),
        pytest.raises(HiperError, match="has changed since the run began"),
    ):
        run_suite(
            SuiteSpec(name=NAME),
            str(folder),
            ["none,num_inference_steps=1"],
            out,
            seeds=1,
            engine=EngineSettings(isolated=True),
        )
    assert not list((out / "cells").rglob("*.json"))
