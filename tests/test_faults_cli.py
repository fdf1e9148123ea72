"""The command line under real faults: kills, signals, full files, a second process, gone readers."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from hiper.artifacts import Artifact
from tests.conftest import Cli
from tests.processes import Outcome, Running, run, start, terminal

pytestmark = pytest.mark.slow

CAPTION = "a standing hare"
"""Of such a length that the headers of checkpoints, with numbers of a digit more or less, fill up to one size."""
STEPS = 40

Words = tuple[str | Path, ...]


@pytest.fixture(scope="module")
def fit(model_folder: Path, dog: Path) -> Words:
    """A fit that saves itself after every step."""
    options = ("-o", "num_train_steps", str(STEPS), "--checkpoint-every", "0")
    return ("fit", dog, "--caption", CAPTION, "--backbone", model_folder, *options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, fit: Words) -> Artifact:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder, *fit, "--out", folder / "dog.safetensors").status == 0
    return Artifact.load(folder / "dog.safetensors")


def tail(path: Path) -> Tensor:
    return Artifact.load(path).tensors["tail"]


def step_of(checkpoint: Path) -> int:
    """How far a checkpoint is, 0 if there is none; also while it is being replaced."""
    if not checkpoint.exists():
        return 0
    with safetensors.safe_open(checkpoint, framework="pt") as file:
        return int(json.loads(file.metadata()["hiper.progress"])["step"])


def reach(running: Running, checkpoint: Path, step: int) -> None:
    running.wait_until(lambda: step_of(checkpoint) >= step)


# kills and signals


def test_a_fit_survives_kill_sigterm_and_ctrl_c_to_the_same_bits(
    cli: Cli, tmp_path: Path, fit: Words, undisturbed: Artifact
) -> None:
    out, checkpoint = tmp_path / "dog.safetensors", tmp_path / "dog.safetensors.checkpoint"
    killed = start(tmp_path, *fit, "--out", out)
    reach(killed, checkpoint, 5)
    killed.send(signal.SIGKILL)
    assert killed.wait().status == -signal.SIGKILL
    assert 5 <= step_of(checkpoint) < STEPS
    cli(*fit, "--out", out).refusal(checkpoint.name, "--resume", "--force")

    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        step = step_of(checkpoint)
        stopped = start(tmp_path, *fit, "--out", out, "--resume")
        reach(stopped, checkpoint, step + 3)
        stopped.send(number)
        outcome = stopped.wait()
        assert outcome.status == status
        assert f"stopped by signal {number:d}; step {step_of(checkpoint)} of {STEPS}" in outcome.err
        assert "--resume" in outcome.err.splitlines()[-1]
        assert "Traceback" not in outcome.err
        assert not out.exists()

    assert cli(*fit, "--out", out, "--resume").status == 0
    assert torch.equal(tail(out), undisturbed.tensors["tail"])
    assert sorted(path.name for path in tmp_path.glob("*dog*")) == [out.name]


def test_a_ctrl_c_before_the_command_has_begun_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    code = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler);"
    done = subprocess.run(
        [sys.executable, "-c", f"{code} runpy.run_module('hiper', run_name='__main__')", "methods"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_second_ctrl_c_ends_a_long_step_at_once(tmp_path: Path, fit: Words) -> None:
    out = tmp_path / "dog.safetensors"
    running = start(tmp_path, *fit, "--out", out, "-o", "batch=1024")
    running.wait_for_error("fitting")
    running.send(signal.SIGINT)
    running.wait_for_error("again to stop at once")
    running.send(signal.SIGINT)
    assert running.wait().status == -signal.SIGINT
    assert not out.exists()


def test_ctrl_c_between_batches_keeps_what_is_drawn(tmp_path: Path, undisturbed: Artifact) -> None:
    file = undisturbed.save(tmp_path / "dog.safetensors")
    arguments = (
        *("--images", "500", "--batch-size", "1", "--num-inference-steps", "2"),
        *("--out", tmp_path / "edits"),
    )
    running = start(tmp_path, "edit", file, "a dog", *arguments)
    running.wait_until(lambda: len(list(tmp_path.glob("edits/*.png"))) >= 3)
    running.send(signal.SIGINT)
    outcome = running.wait()
    drawn = list(tmp_path.glob("edits/*.png"))
    assert outcome.status == 130
    assert f"{len(drawn)} of 500 pictures are drawn" in outcome.err
    assert sorted(path.suffix for path in (tmp_path / "edits").iterdir()) == [".png"] * len(drawn)


def test_run_goes_on_by_itself_after_a_kill(
    cli: Cli, tmp_path: Path, fit: Words, undisturbed: Artifact
) -> None:
    words = [str(word) for word in fit[1 : fit.index("--checkpoint-every")]]
    command: Words = ("run", *words, "a dog", "--out", tmp_path / "edits", "--json")
    command += ("--num-inference-steps", "1")
    stopped = start(tmp_path, *command)
    stopped.wait_for_error("fitting")
    stopped.send(signal.SIGTERM)
    outcome = stopped.wait()
    assert outcome.status == 143
    assert "the same command continues from there" in outcome.err
    (checkpoint,) = (tmp_path / "cache" / "fits").glob("*.checkpoint")
    step = step_of(checkpoint)
    assert 0 < step < STEPS
    record = json.loads(cli(*command).out)
    assert torch.equal(tail(Path(record["artifact"])), undisturbed.tensors["tail"])
    assert [path.name for path in (tmp_path / "cache" / "fits").iterdir()] == [Path(record["artifact"]).name]


def test_a_changed_job_is_not_mixed_with_the_old_one(
    cli: Cli, tmp_path: Path, fit: Words, undisturbed: Artifact
) -> None:
    out, checkpoint = tmp_path / "dog.safetensors", tmp_path / "dog.safetensors.checkpoint"
    changed = ("--seed", "3", "-o", "tail=4")
    stopped = start(tmp_path, *fit, "--out", out, *changed)
    reach(stopped, checkpoint, 3)
    stopped.send(signal.SIGTERM)
    stopped.wait()
    outcome = cli(*fit, "--out", out, "--resume", "--quiet")
    outcome.refusal("seed was 3 and is 0", "tail was 4 and is 5", "--force")
    assert cli(*fit, "--out", out, "--force").status == 0
    assert torch.equal(tail(out), undisturbed.tensors["tail"])
    assert not checkpoint.exists()


# places that cannot be written to, and other processes


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="this system cannot limit a running process")
def test_a_disk_that_fills_up_leaves_what_was_saved(
    cli: Cli, tmp_path: Path, fit: Words, undisturbed: Artifact
) -> None:
    """From some step on the system refuses to let any file of the process grow past 1000 bytes."""
    out, checkpoint = tmp_path / "dog.safetensors", tmp_path / "dog.safetensors.checkpoint"
    running = start(tmp_path, *fit, "--out", out, "--quiet")
    reach(running, checkpoint, 10)
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (1000, 1000))
    running.wait().refusal(checkpoint.name, f"{checkpoint.stat().st_size} bytes")
    assert not list(tmp_path.glob(".hiper-*"))
    assert 5 <= step_of(checkpoint) < STEPS
    assert cli(*fit, "--out", out, "--resume").status == 0
    assert torch.equal(tail(out), undisturbed.tensors["tail"])


def test_output_to_a_full_device_is_no_success(tmp_path: Path, undisturbed: Artifact) -> None:
    file = undisturbed.save(tmp_path / "dog.safetensors")
    outcome = start(tmp_path, "show", file, out=Path("/dev/full")).wait()
    outcome.refusal("the output cannot be written: No space left on device")


def test_a_log_that_cannot_be_written_stops_no_work(tmp_path: Path, undisturbed: Artifact) -> None:
    file = undisturbed.save(tmp_path / "dog.safetensors")
    command = ("edit", file, "a dog", "--num-inference-steps", "1", "--out", tmp_path)
    outcome = start(tmp_path, *command, err=Path("/dev/full")).wait()
    assert outcome == Outcome(status=0, out=f"{tmp_path / 'a-dog-0.png'}\n", err="")


def test_two_processes_do_not_share_an_output(cli: Cli, tmp_path: Path, fit: Words) -> None:
    out = tmp_path / "dog.safetensors"
    endless = [word if word != str(STEPS) else "100000" for word in fit]
    first = start(tmp_path, *endless, "--out", out)
    first.wait_for_error("fitting")
    cli(*fit, "--out", out, "--resume").refusal(f"in use by process {first.pid}")
    first.send(signal.SIGKILL)
    first.wait()
    assert (tmp_path / ".hiper-dog.safetensors.lock").exists()
    second = start(tmp_path, *fit, "--out", out, "--force")
    assert second.wait().status == 0


def test_two_processes_do_not_draw_the_same_pictures(cli: Cli, tmp_path: Path, undisturbed: Artifact) -> None:
    file = undisturbed.save(tmp_path / "dog.safetensors")
    arguments = ("edit", file, "a dog", "--out", tmp_path / "edits")
    first = start(tmp_path, *arguments, "--images", "1000")
    first.wait_for_error("drawing")
    cli(*arguments, "--seed", "5000", "--num-inference-steps", "1").refusal(f"in use by process {first.pid}")
    first.send(signal.SIGTERM)
    assert first.wait().status == 143
    assert cli(*arguments, "--seed", "5000", "--num-inference-steps", "1").status == 0


# models that fail


def test_a_loss_that_is_not_finite_fails_without_a_traceback(
    cli: Cli, tmp_path: Path, model_folder: Path, dog: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    tensors["conv_out.weight"].fill_(torch.finfo(torch.float32).max)  # finite, and overflows in every sum
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
    out = tmp_path / "dog.safetensors"
    arguments = (
        "--caption",
        CAPTION,
        "--backbone",
        model,
        "--out",
        out,
        "-o",
        "num_train_steps=9",
        "--quiet",
    )
    outcome = cli("fit", dog, *arguments)
    assert outcome.status == 1
    assert "finite" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not out.exists()


# readers and terminals


def test_a_bar_on_a_terminal_leaves_stdout_alone(tmp_path: Path, fit: Words) -> None:
    with terminal() as (name, shown):
        command = (*fit, "--out", tmp_path / "x", "--json")
        outcome = start(tmp_path, *command, err=name, environment={"TERM": "xterm", "COLUMNS": "80"}).wait()
    text = b"".join(shown).decode()
    assert outcome.status == 0
    assert json.loads(outcome.out)["artifact"] == str(tmp_path / "x")
    assert "\x1b[2K" in text
    assert f"{STEPS}/{STEPS}" in text
    assert "hiper: note: only 64x64 pixels" in text


def test_a_reader_who_has_gone_is_no_error(tmp_path: Path, undisturbed: Artifact) -> None:
    file = undisturbed.save(tmp_path / "dog.safetensors")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    running = start(tmp_path, "show", file, out=pipe)
    os.close(os.open(pipe, os.O_RDONLY))
    assert running.wait() == Outcome(status=0, out="", err="")


def test_a_whole_command_in_a_hostile_environment(tmp_path: Path, model_folder: Path, dog: Path) -> None:
    """A fresh interpreter, an encoding that lacks most letters, decimal commas, far from Greenwich."""
    out = tmp_path / "собака.safetensors"
    environment = {
        **os.environ,
        **decimal_commas(tmp_path),
        "PYTHONIOENCODING": "cp1252",
        "TZ": "Pacific/Kiritimati",
    }
    script = "import locale, sys, hiper.cli; locale.setlocale(locale.LC_ALL, ''); sys.exit(hiper.cli.main())"
    words = ["--caption", "собака \U0001f415", "--backbone", str(model_folder), "--device", "cpu"]
    options = ["-o", "learning_rate", "0.5", "-o", "num_train_steps=1"]
    command = [sys.executable, "-c", script, "fit", str(dog), "--out", str(out), *words, *options]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"\u0441\u043e\u0431\u0430\u043a\u0430.safetensors (" in done.stdout
    assert b"loss 1.0" in done.stdout
    lines = done.stderr.decode("cp1252").splitlines()
    assert lines[1:] == [f"loading {model_folder}", "fitting", "fitting: 1 of 1, took 0 s"]
    artifact = Artifact.load(out)
    assert artifact.options["learning_rate"] == 0.5
    created = datetime.fromisoformat(artifact.created)
    assert created.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=5)


def decimal_commas(folder: Path) -> dict[str, str]:
    """The environment of a locale that writes 0,5, where the system has the means to make one."""
    name = folder / "de_DE.UTF-8"
    make = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(name)]
    if not shutil.which(make[0]) or subprocess.run(make, capture_output=True, check=False).returncode:
        return {}
    return {"LOCPATH": str(folder), "LC_ALL": name.name}
