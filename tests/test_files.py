"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from hiper.batch.store import open_store
from hiper.errors import OutputError
from hiper.files import InUseError, atomic_write, cache_dir, check_writable, lock, make_folder, safe_slug

OLD, NEW = b"the old file", b"the new file, which is longer"


class Job(Protocol):
    def __call__(self, path: Path, *, overwrite: bool) -> None: ...


def write_new(path: Path, *, overwrite: bool) -> None:
    atomic_write(path, NEW, overwrite=overwrite)


@contextmanager
def writes_end_at(size: int) -> Iterator[None]:
    """No file of this process may grow past `size` bytes: the system refuses in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run(script: str, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def one_line(error: pytest.ExceptionInfo[OutputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_writes_all_bytes_with_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    path = tmp_path / "tail.safetensors"
    atomic_write(path, NEW, overwrite=False)
    plain = tmp_path / "plain"
    plain.write_bytes(NEW)
    assert path.read_bytes() == NEW
    assert path.stat().st_mode == plain.stat().st_mode
    assert sorted(tmp_path.iterdir()) == [plain, path]


@pytest.mark.parametrize("job", [write_new, check_writable])
def test_an_existing_file_is_kept_unless_asked(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "dog.png"
    path.write_bytes(OLD)
    same = tmp_path / "sub" / ".." / "dog.png"  # output = input under another spelling
    (tmp_path / "sub").mkdir()
    link = tmp_path / "link.png"
    link.symlink_to(path)
    for spelling in (path, same, link):
        with pytest.raises(OutputError, match="--overwrite") as error:
            job(spelling, overwrite=False)
        one_line(error)
        assert path.read_bytes() == OLD


def test_overwriting_replaces_the_file_and_keeps_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "run3", tmp_path / "latest"
    path.write_bytes(OLD)
    link.symlink_to(path)
    check_writable(link, overwrite=True)
    assert path.read_bytes() == OLD
    atomic_write(link, NEW, overwrite=True)
    assert link.is_symlink()
    assert path.read_bytes() == NEW


def test_a_full_file_leaves_the_old_one_intact_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "tail.safetensors"
    path.write_bytes(OLD)
    data = bytes(100_000)
    with writes_end_at(40_000), pytest.raises(OutputError) as error:
        atomic_write(path, data, overwrite=True)
    assert "100000 bytes" in one_line(error)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_bytes_it_lacks(tmp_path: Path) -> None:
    """On a disk of 64 KB, mounted where only the child process sees it."""
    script = """
import subprocess, sys
from pathlib import Path
from hiper.errors import OutputError
from hiper.files import atomic_write
disk = Path(sys.argv[1])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk]).returncode:
    sys.exit(77)
path = disk / "tail.safetensors"
atomic_write(path, b"old", overwrite=False)
try:
    atomic_write(path, bytes(100_000), overwrite=True)
except OutputError as error:
    print(error)
assert path.read_bytes() == b"old"
assert list(disk.iterdir()) == [path]
"""
    own = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run(["unshare", *own, "true"], check=False).returncode:
        pytest.skip("no mounts of one's own here; the full file above stands in")
    done = run(script, str(tmp_path), before=("unshare", *own))
    if done.returncode == 77:
        pytest.skip("a tmpfs cannot be mounted here; the full file above stands in")
    assert done.returncode == 0, done.stderr
    assert "no room" in done.stdout
    assert "100000 bytes" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.slow
def test_kill_in_the_middle_of_a_write_leaves_old_or_new(tmp_path: Path) -> None:
    """A process that keeps rewriting one file is killed again and again at arbitrary moments."""
    path = tmp_path / "state"
    size = 3_000_000
    script = """
import sys
from pathlib import Path
from hiper.files import atomic_write
i = 0
while True:
    atomic_write(Path(sys.argv[1]), bytes([i % 256]) * int(sys.argv[2]), overwrite=True)
    i += 1
"""
    for delay in (0.0, 0.007, 0.013, 0.021):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", script, str(path), str(size)])
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        data = path.read_bytes()
        assert len(data) == size
        assert len(set(data)) == 1
    atomic_write(path, NEW, overwrite=True)
    assert path.read_bytes() == NEW


def test_an_interrupted_write_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tail"
    path.write_bytes(OLD)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, NEW, overwrite=True)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to_is_refused_early() -> None:
    """Root may write anywhere, so the child gives that up first."""
    script = """
import os, sys
from pathlib import Path
from hiper.errors import OutputError
from hiper.files import atomic_write, check_writable
if os.geteuid() == 0:
    os.seteuid(65534)
path = Path(sys.argv[1]) / "tail"
for arguments in ((check_writable, path), (atomic_write, path, b"new")):
    try:
        arguments[0](*arguments[1:], overwrite=False)
    except OutputError as error:
        print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        done = run(script, folder)
        assert done.stderr == ""
        refusals = done.stdout.splitlines()
        assert len(refusals) == 2
        assert all(f"cannot write '{folder}/tail': Permission denied" in line for line in refusals)
        assert not list(Path(folder).iterdir())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing/tail", "no folder"),
        ("file/tail", "no folder"),
        (".", "is a folder"),
        ("x" * 300, "300 bytes"),
        ("nul\0", "null byte"),
        ("half\ud83d", "surrogates"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").touch()
    for job in (check_writable, write_new):
        with pytest.raises(OutputError, match=says) as error:
            job(tmp_path / name, overwrite=True)
        one_line(error)


@pytest.mark.parametrize("name", ["/dev/null", "fifo"])
def test_devices_and_pipes_are_never_replaced(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = tmp_path / name
    mode = path.stat().st_mode
    with pytest.raises(OutputError, match="no ordinary file"):
        atomic_write(path, NEW, overwrite=True)
    assert path.stat().st_mode == mode


@pytest.mark.parametrize("name", ["a dog.png", "собака.png", "🐕‍🦺 ✨.png", "a\nb\x1b[31m.png", "犬" * 85])
def test_any_name_the_file_system_takes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    check_writable(path, overwrite=False)
    atomic_write(path, NEW, overwrite=False)
    assert path.read_bytes() == NEW
    with pytest.raises(OutputError) as error:
        atomic_write(path, NEW, overwrite=False)
    assert "\x1b" not in one_line(error)


def test_two_processes_take_turns(tmp_path: Path) -> None:
    """A living holder is named; a killed one is taken over, its lock file notwithstanding."""
    path = tmp_path / "tail.safetensors"
    script = """
import sys, time
from pathlib import Path
from hiper.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(OutputError, match=f"process {holder.pid};") as error, lock(path):
        pytest.fail("two holders")
    one_line(error)
    holder.kill()
    holder.communicate()
    left = list(tmp_path.iterdir())
    assert [file.read_text() for file in left] == [str(holder.pid)]
    with lock(path):
        assert left[0].read_text() == str(os.getpid())
        with pytest.raises(OutputError, match=str(os.getpid())), lock(path):
            pytest.fail("two holders")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_only_one_of_many_processes_is_inside(tmp_path: Path) -> None:
    """Each adds one to a number, read and written apart; a lock that lets two in loses some."""
    path = tmp_path / "count"
    path.write_text("0")
    script = """
import sys, time
from pathlib import Path
from hiper.errors import OutputError
from hiper.files import atomic_write, lock
path, times = Path(sys.argv[1]), 25
while times:
    try:
        with lock(path):
            atomic_write(path, str(int(path.read_text()) + 1).encode(), overwrite=True)
        times -= 1
    except OutputError:
        time.sleep(0.0005)
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert path.read_text() == "100"


def test_a_users_own_lock_file_is_neither_touched_nor_removed(tmp_path: Path) -> None:
    own = tmp_path / "poetry.lock"
    own.write_bytes(OLD)
    with lock(tmp_path / "poetry"):
        assert own.read_bytes() == OLD
    assert own.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [own]


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_lock_writes_to_nothing_that_a_stranger_put_in_its_place(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    """Symbolic or hard, there or not there yet."""
    victim, path = tmp_path / "victim", tmp_path / "folder" / "run.json"
    path.parent.mkdir()
    beside = path.with_name(".hiper-run.json.lock")
    victim.write_bytes(OLD)
    link(beside, victim)
    with pytest.raises(OutputError, match=r"\.hiper-run\.json\.lock"), lock(path):
        pytest.fail("locked by a stranger's link")
    assert victim.read_bytes() == OLD
    if link is Path.symlink_to:
        victim.unlink()
        with pytest.raises(OutputError), lock(path):
            pytest.fail("locked by a stranger's link")
        assert not victim.exists()


@pytest.mark.parametrize("there", [True, False])
def test_no_link_is_followed_out_of_its_folder(tmp_path: Path, there: bool) -> None:
    victim, link = tmp_path / "victim", tmp_path / "folder" / "report.html"
    link.parent.mkdir()
    link.symlink_to(victim)
    if there:
        victim.write_bytes(OLD)
    for job in (check_writable, write_new):
        with pytest.raises(OutputError, match="symbolic link") as error:
            job(link, overwrite=True)
        assert str(victim) in one_line(error)
    with pytest.raises(OutputError, match="symbolic link"), lock(link):
        pytest.fail("locked what lies elsewhere")
    assert victim.exists() == there
    assert not there or victim.read_bytes() == OLD
    assert list(link.parent.iterdir()) == [link]


def test_a_folder_of_ours_is_not_made_where_a_link_leads_away(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir()
    folder.mkdir()
    (folder / "cells").symlink_to(elsewhere, target_is_directory=True)
    (folder / "fits").symlink_to(folder / "kept", target_is_directory=True)
    (folder / "kept").mkdir()
    for name in ("cells", "cells/hiper"):
        with pytest.raises(OutputError, match="symbolic link"):
            make_folder(folder / name, within=folder)
    assert list(elsewhere.iterdir()) == []
    assert make_folder(folder / "fits" / "hiper", within=folder).is_dir()
    shortcut = tmp_path / "shortcut"  # what the user names may be a link
    shortcut.symlink_to(folder, target_is_directory=True)
    assert make_folder(shortcut / "new", within=shortcut).is_dir()


def test_a_store_neither_writes_nor_removes_through_a_link(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "results"
    for path in (elsewhere, folder):
        path.mkdir()
    victim, leftover = elsewhere / "tail", elsewhere / ".hiper-0.tmp"
    for path in (victim, leftover):
        path.write_bytes(OLD)
    (folder / "dog").symlink_to(elsewhere, target_is_directory=True)
    store = open_store(str(folder))
    with pytest.raises(OutputError, match="symbolic link"):
        store.write("dog/tail", NEW)
    with pytest.raises(OutputError, match="symbolic link"):
        store.remove("dog/tail")
    with pytest.raises(OutputError, match="symbolic link"):
        store.sweep("dog")
    assert [victim.read_bytes(), leftover.read_bytes()] == [OLD, OLD]
    (folder / "shown.png").symlink_to(victim)
    store.write("cat/tail", NEW)
    (folder / "cat" / "copy").symlink_to(folder / "cat" / "tail")
    assert store.sizes().keys() == {"cat/tail", "cat/copy"}


def test_another_use_is_an_error_of_its_own(tmp_path: Path) -> None:
    path, link = tmp_path / "run3", tmp_path / "latest"
    link.symlink_to(path)
    with lock(path):
        for spelling in (path, link):
            with pytest.raises(InUseError), lock(spelling):
                pytest.fail("two holders")


@pytest.mark.parametrize("name", ["x" * 250, "犬" * 80])
def test_a_name_of_any_length_is_locked(tmp_path: Path, name: str) -> None:
    with lock(tmp_path / name), pytest.raises(InUseError), lock(tmp_path / name):
        pytest.fail("two holders")
    assert not list(tmp_path.iterdir())


def test_a_lock_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), lock(tmp_path / "missing" / "tail"):
        pytest.fail("locked nothing")


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("a sitting dog", "a-sitting-dog"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\dog: a *photo*?", "C-dog-a-photo"),
        ("собака, 犬", "собака-犬"),
        ("dog\0\x1b[31m\u202egnp.exe", "dog-31m-gnp-exe"),
        ("full\uff0fwidth", "full-width"),
        ("ab" * 100, "ab" * 40),
        ("犬" * 100, "犬" * 26),  # 3 bytes each
        ("x" * 79 + " tail", "x" * 79),
        ("Con!", "text-Con"),  # of a device, on Windows
        ("com1", "text-com1"),
        ("a con", "a-con"),
    ],
)
def test_slugs(text: str, slug: str) -> None:
    assert safe_slug(text) == slug


@pytest.mark.parametrize("text", ["", "🐕✨", "...", "\ud800"])
def test_a_text_without_letters_still_names_a_file(text: str) -> None:
    assert safe_slug(text).startswith("text-")
    assert safe_slug(text) != safe_slug(text + "!")


def test_a_slug_is_a_usable_name_of_at_most_its_limit(tmp_path: Path) -> None:
    text = "".join(map(chr, range(1, 0x3000, 7)))
    for limit in (16, 80, 200):
        name = safe_slug(text, limit=limit)
        assert len(name.encode()) <= limit
        atomic_write(tmp_path / f"{name}.png", NEW, overwrite=False)


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIPER_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("HIPER_CACHE")
    assert cache_dir() == tmp_path / "shared" / "hiper"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == tmp_path / ".cache" / "hiper"
    assert not list(tmp_path.iterdir())
