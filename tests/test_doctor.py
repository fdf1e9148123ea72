"""hiper doctor, by faults that are really there: broken packages on the path, places without room, a GPU's driver."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest

from hiper.analysis.doctor import Finding
from hiper.analysis.doctor.folders import embedded, hub, model, places
from hiper.analysis.doctor.libraries import accelerator, nvidia_gpus, run_probe
from hiper.analysis.doctor.releases import EXTRAS, extras, packages, requirements
from hiper.backbones import embedded_folder

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
VISION_FAULT = "operator torchvision::nms does not exist"


def named(findings: Any, subject: str) -> Finding:
    (found,) = [each for each in findings if each.subject == subject]
    assert isinstance(found, Finding)
    return found


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., Path]:
    """Put a package, or its metadata alone, into a folder that can stand first on the path."""

    def make(name: str, version: str, code: str | None = None) -> Path:
        folder = tmp_path / "site"
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if code is not None:
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(code)
        return folder

    return make


# versions


def test_the_ranges_are_those_of_the_package_itself() -> None:
    asked = [text for text in metadata("hiper").get_all("Requires-Dist") or [] if "extra ==" not in text]
    assert len(requirements("")) == len(asked)
    assert [each.subject for each in packages()] == [each.name for each in requirements("")]
    assert {each.level for each in packages()} == {"ok"}


def test_a_release_outside_the_range(install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install("diffusers", "0.30.0"))
    found = named(packages(), "diffusers")
    assert (found.level, found.what) == ("problem", "0.30.0, and diffusers<0.43,>=0.42 is supported")
    assert found.remedy == f'{sys.executable} -m pip install "diffusers<0.43,>=0.42"'


def test_another_build_of_the_pinned_torch_is_in_range(
    install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install("torch", "2.13.0+cu999"))
    assert named(packages(), "torch").level == "ok"


def test_an_old_package_of_an_extra(install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install("gradio", "4.0.0"))
    found = named(extras(), "gradio")
    assert (found.level, "6.31" in found.what) == ("problem", True)


def test_every_extra_for_users_says_what_it_gives() -> None:
    assert {*EXTRAS, "dev", "docs"} == set(metadata("hiper").get_all("Provides-Extra") or [])
    assert all(requirements(extra) for extra in EXTRAS)


# places


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HIPER_CACHE", str(tmp_path / "file" / "cache"))
    found = named(places(), "cache")
    assert (found.level, found.remedy[:19]) == ("problem", "export HIPER_CACHE=")
    assert "cannot be written to: Not a directory" in found.what


def test_a_cache_that_is_not_there_yet_is_none_of_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIPER_CACHE", str(tmp_path / "new" / "cache"))
    assert named(places(), "cache").level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_token_is_told_of_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = named(hub(), "hub token")
    assert (found.level, found.what) == ("ok", "from HF_TOKEN")
    assert TOKEN not in json.dumps([asdict(each) for each in hub()])


def test_a_damaged_embedded_model(tmp_path: Path) -> None:
    assert [each.level for each in embedded()] == ["ok"]
    copy = tmp_path / "weights"
    shutil.copytree(embedded_folder("critters"), copy)
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    found = model("critters", copy)
    assert (found.level, "is damaged" in found.what) == ("problem", True)


# torch and the GPU's driver


def test_a_cpu_build_beside_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA Thing (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert nvidia_gpus() == 1
    wrong = accelerator({"built": "cpu", "works": False}, nvidia_gpus())
    assert (wrong.level, "CPU alone" in wrong.what, "torch==" in wrong.remedy) == ("warning", True, True)
    old = accelerator({"built": "cuda", "works": False}, 1)
    assert (old.level, "driver" in old.remedy) == ("warning", True)
    assert accelerator({"built": "cuda", "works": True}, 1).level == "ok"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "Python died with status -11"),
        (
            "try:\n    import nowhere\nexcept ImportError as e:\n    raise ValueError('outer') from e",
            "nowhere",
        ),
    ],
)
@pytest.mark.slow
def test_a_library_that_takes_its_process_along(
    install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", f"{install('broken', '1', code)}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    )
    first, last = run_probe(["json", "broken"])
    assert first == {"target": "json", "error": None}
    assert words in last["error"]


# the command


def doctor(folder: Path, **variables: str) -> tuple[int, Mapping[str, Any]]:
    """Run `hiper doctor --json` with `folder` first on the path."""
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from hiper.cli import main; sys.exit(main())",
            "doctor",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **variables},
    )
    assert done.stdout.count("\n") == 1, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def findings(report: Mapping[str, Any], level: str) -> dict[str, Any]:
    return {each["subject"]: each for each in report["findings"] if each["level"] == level}


@pytest.mark.slow
def test_a_sound_installation(tmp_path: Path) -> None:
    status, report = doctor(tmp_path, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="1", HIPER_CACHE=str(tmp_path))
    assert (status, report["usable"]) == (0, True)
    assert "diffusers:StableDiffusionPipeline" in findings(report, "ok")
    assert "offline" in findings(report, "note")["hub"]["what"]


@pytest.mark.slow
def test_a_torchvision_that_breaks_transformers(tmp_path: Path, install: Callable[..., Path]) -> None:
    """Raises on import what the CUDA build of torchvision raises beside a CPU build of torch."""
    site = install("torchvision", "0.28.0", f"raise RuntimeError({VISION_FAULT!r})")
    status, report = doctor(site, HIPER_CACHE=str(tmp_path / "cache"))
    assert (status, report["usable"]) == (1, False)
    ((subject, found),) = findings(report, "problem").items()
    assert (subject, VISION_FAULT in found["what"]) == ("torchvision", True)
    assert found["remedy"] == f"{sys.executable} -m pip uninstall --yes torchvision"


@pytest.mark.slow
def test_a_library_that_breaks_another_is_the_culprit(
    install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("guest", "1", "import json\njson.loads('')")
    site = install(
        "host", "1", "try:\n    import guest\nexcept ValueError as e:\n    raise ImportError('lazy') from e"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    (found,) = run_probe(["host"])
    assert (found["culprit"], "Expecting value" in found["error"]) == ("guest", True)


@pytest.mark.slow
def test_a_library_that_breaks_diffusers_ends_a_command_in_one_line(
    tmp_path: Path, install: Callable[..., Path], dog: Path
) -> None:
    site = install("xformers", "0.0.30", f"raise RuntimeError({VISION_FAULT!r})")
    words: list[str | Path] = [
        *("fit", dog, "--caption", "a dog", "--out", tmp_path / "dog.safetensors", "--quiet"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "hiper", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("[transformers]")]
    assert line.startswith("hiper: ")
    assert "hiper doctor" in line
    assert VISION_FAULT in line


@pytest.mark.slow
def test_without_a_torch_that_can_be_imported(tmp_path: Path, install: Callable[..., Path]) -> None:
    site = install("torch", "1.0", "raise OSError('libtorch_cpu.so: cannot open shared object file')")
    status, report = doctor(site, HIPER_CACHE="/proc/none", HF_HOME="/proc/none")
    problems = findings(report, "problem")
    assert status == 1
    assert {"torch", "cache", "models"} <= problems.keys()
    assert "libtorch_cpu.so" in next(
        each["what"] for each in report["findings"] if "imported" in each["what"]
    )
