"""What Windows lacks, taken away before hiper is imported: it works without, in this process and its workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests import tiny

_WITHOUT = """
import fcntl, os, signal, sys, types

import psutil  # its Linux part needs resource

def locking(handle, mode, count):
    assert os.lseek(handle, 0, os.SEEK_CUR) > 1000 and (mode, count) == (2, 1)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None

flock = fcntl.flock
if os.environ.get("WITH_MSVCRT"):
    sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
sys.modules["fcntl"] = sys.modules["resource"] = None
for name in ("pthread_sigmask", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
for name in ("O_NOFOLLOW", "fchmod", "fchown", "link", "mkfifo"):
    delattr(os, name)
"""


@pytest.fixture
def windows(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a fresh Python without these modules and functions; so do the processes that it starts."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_WITHOUT)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))

    def start(code: str, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
        environment: Mapping[str, str] = {**os.environ, "HIPER_CACHE": str(tmp_path / "cache"), **variables}
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "PYTHONPATH": path},
        )

    return start


HOLD = """
import sys, time
from pathlib import Path
from hiper.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
TAKE = """
import sys
from pathlib import Path
from hiper.errors import OutputError
from hiper.files import atomic_write, lock
path = Path(sys.argv[1])
try:
    with lock(path):
        atomic_write(path, b"taken", overwrite=True)
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("msvcrt", ["", "1"])
def test_locks_without_fcntl(
    tmp_path: Path, windows: Callable[..., subprocess.Popen[str]], msvcrt: str
) -> None:
    """By msvcrt, which lets go of what a killed process held; without it too, where the message says what to remove."""
    path = tmp_path / "dog.safetensors"
    beside = path.with_name(".hiper-dog.safetensors.lock")
    holder = windows(HOLD, path, WITH_MSVCRT=msvcrt)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    printed, _ = windows(TAKE, path, WITH_MSVCRT=msvcrt).communicate()
    assert f"process {holder.pid}" in printed
    assert (str(beside) in printed) == (not msvcrt)
    holder.kill()
    holder.communicate()
    if not msvcrt:
        beside.unlink()
    assert windows(TAKE, path, WITH_MSVCRT=msvcrt).communicate() == ("", "")
    assert path.read_bytes() == b"taken"
    assert not beside.exists()


COMMANDS = """
import json, sys
from hiper.cli import main
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
import torch
from hiper.analysis.selfcheck import peak_memory
assert peak_memory(torch.device("cpu")) > 100_000_000
"""


@pytest.mark.slow
def test_commands_run_without_what_windows_lacks(
    tmp_path: Path, windows: Callable[..., subprocess.Popen[str]]
) -> None:
    picture, jobs, fit = tmp_path / "dog.png", tmp_path / "jobs.jsonl", tmp_path / "dog.safetensors"
    tiny.picture().save(picture)
    line = {"image": "dog.png", "caption": "a dog", "options": {"num_train_steps": 2}}
    jobs.write_text(f"{json.dumps(line)}\n{json.dumps({**line, 'caption': 'a cat'})}\n")
    edits, results = tmp_path / "edits", tmp_path / "results"
    commands = (
        ["fit", picture, "--caption", "a dog", "-o", "num_train_steps=2", "--out", fit],
        ["edit", fit, "con", "--num-inference-steps", "1", "--out", edits],
        ["batch", jobs, "--sentence", "a dog", "--timeout", "600", "--out", results],
    )
    process = windows(COMMANDS, json.dumps([list(map(str, command)) for command in commands]))
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert (edits / "text-con-0.png").is_file()
    assert len(list(results.rglob("*.safetensors"))) == 2
