"""Hostile input: whatever arrives is used or refused in words, within limits of time, memory and reach.

HIPER_FUZZ_CASES=100000 HIPER_FUZZ_SEED=1 python -m pytest tests/test_fuzz.py -s   that many cases in all, others.

Each reader runs in a process of its own, under guards that no code inside can take off.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image, ImageCms

from hiper.errors import HiperError
from hiper.images import open_image
from tests.fuzz_targets import TARGETS, Target
from tests.processes import forked

CASES = int(os.environ.get("HIPER_FUZZ_CASES", "800"))
SEED = int(os.environ.get("HIPER_FUZZ_SEED", "0"))
SECONDS = 10
MEMORY = 1_000_000_000
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = (
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "os.chmod",
)
NEVER = ("pickle.find_class", "socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_arrives_is_used_or_refused(tmp_path: Path, name: str) -> None:
    report = tmp_path / "report.txt"
    (tmp_path / "work").mkdir()
    status = forked(explore, name, -(-CASES // len(TARGETS)), SEED, tmp_path / "work", report)
    print(report.read_text(), end="")
    assert status == 0, f"{name}: {report.read_text()}\nthe last case is in {tmp_path / 'work'}"


@pytest.mark.parametrize("kind", ["rgba.png", "deep.png", "rgba.webp"])
def test_the_largest_picture_takes_less_than_a_gigabyte(tmp_path: Path, kind: str) -> None:
    """Single-coloured, so that the file is small: 8000 x 8000 pixels in at most some 300 KB."""
    side, path = 6900 if kind.endswith("webp") else 8000, tmp_path / kind
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = (
        Image.fromarray(np.full((side, side), 257, np.uint16))
        if kind == "deep.png"
        else Image.new("RGBA", (side, side), (9, 9, 9, 100))
    )
    picture.save(path, icc_profile=profile, lossless=True, method=0)
    assert path.stat().st_size < 1_000_000
    assert forked(open_in_little_memory, path) == 0


def open_in_little_memory(path: Path) -> None:
    """Read a picture with one gigabyte more than the libraries take."""
    warnings.simplefilter("ignore")
    _limit_memory()
    open_image(path)


def explore(name: str, cases: int, number: int, folder: Path, report: Path) -> None:
    """Try `cases` cases; exits with 1 and a traceback in `report` at the first that is not refused in words."""
    with report.open("w") as out:
        try:
            tally = _tried(TARGETS[name], cases, number, folder, out)
        except BaseException:
            traceback.print_exc(file=out)
            raise
        out.write(f"{name}: {tally}\n")


def _tried(target: Target, cases: int, number: int, folder: Path, out: Any) -> str:
    os.chdir(folder)
    set_hypothesis_home_dir(folder / "hypothesis")
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    tally = {"used": 0, "refused": 0}
    breaches = _watched(folder)

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def each(data: st.DataObject) -> None:
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=out)  # ends the process inside C code, too
        message = _refusal(target, data, folder)
        assert "\n" not in message
        tally["refused" if message else "used"] += 1
        assert not breaches, breaches

    begun, before = time.perf_counter(), _megabytes("VmRSS")
    _limit_memory()
    each()
    faulthandler.cancel_dump_traceback_later()
    grown = _megabytes("VmHWM") - before
    return f"{tally}, {time.perf_counter() - begun:.0f} s, {grown:.0f} MB"


def _refusal(target: Target, data: st.DataObject, folder: Path) -> str:
    """The words of a refusal, "" when the case was used; whatever else is raised is a defect."""
    try:
        target(data, folder)
    except HiperError as error:
        return str(error)
    return ""


def _watched(folder: Path) -> list[str]:
    """Note whatever Python is asked to do that no reader may do; the list is looked at after each case."""
    breaches: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in NEVER:
            breaches.append(f"{event} {arguments[:2]}")
        elif event in CHANGES or (event == "open" and _is_writing(arguments[2])):
            _note_outside(arguments[0], event, folder, breaches)

    sys.addaudithook(hook)
    return breaches


def _is_writing(flags: Any) -> bool:
    return isinstance(flags, int) and bool(flags & WRITING)


def _note_outside(path: Any, event: str, folder: Path, breaches: list[str]) -> None:
    if not isinstance(path, int) and str(path) != os.devnull:
        place = os.path.realpath(os.fsdecode(path))
        if not place.startswith(f"{os.path.realpath(folder)}/") and place != os.path.realpath(folder):
            breaches.append(f"{event} {place}")


def _limit_memory() -> None:
    """Refuse the process more than one gigabyte on top of what the libraries take."""
    limit = int(_megabytes("VmSize") * 1e6) + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _megabytes(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1000
    raise AssertionError(field)
