"""What pip makes of our requirements where a torch is installed: its own resolver, tiny wheels, no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS: dict[str, str] = {
    canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line[:1].isalnum()
    and (requirement := Requirement(line))
    and (requirement.marker is None or requirement.marker.evaluate())
}
NEWEST = "2.99.0"
"""Of torch, in the folder that pip chooses from."""


def wheel(folder: Path, name: str, version: str, requires: Sequence[str] = ()) -> None:
    """Write a wheel that holds nothing but its metadata."""
    stem = f"{name.replace('-', '_')}-{version}"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as file:
        file.writestr(
            f"{stem}.dist-info/METADATA", head + "".join(f"Requires-Dist: {each}\n" for each in requires)
        )
        file.writestr(
            f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of hiper, of what it needs as constraints.txt pins it, and of several releases of torch."""
    folder = tmp_path_factory.mktemp("wheels")
    wheel(folder, "hiper", PROJECT["version"], PROJECT["dependencies"])
    for requirement in map(Requirement, PROJECT["dependencies"]):
        wheel(folder, requirement.name, PINS[canonicalize_name(requirement.name)])
    for version in ("2.8.0", "2.9.1", NEWEST):
        wheel(folder, "torch", version)
    return folder


@pytest.fixture
def installs(tmp_path: Path, wheels: Path) -> Any:
    """Return what pip would install where a torch of some release, and a torchvision made for it, are there."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")

    def dry_run(torch: str | None, *arguments: str | Path) -> dict[str, str]:
        if torch is not None:
            pair = {"torch": (torch, ""), "torchvision": ("0.24.1", f"Requires-Dist: torch=={torch}\n")}
            for name, (version, requires) in pair.items():
                info = site / f"{name}-{version}.dist-info"
                info.mkdir()
                (info / "METADATA").write_text(
                    f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
                )
                (info / "INSTALLER").write_text("pip")
        report = tmp_path / "report.json"
        command: list[str | Path] = [
            *("install", "--dry-run", "--quiet", "--report", report, "--no-index"),
            *("--find-links", wheels),
        ]
        python = tmp_path / "venv" / "bin" / "python"
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", python, *command, *arguments, "hiper"],
            check=True,
            capture_output=True,
            env={**os.environ, "PIP_CONFIG_FILE": os.devnull},  # nobody's own constraints
        )
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
        return {each["metadata"]["name"]: each["metadata"]["version"] for each in found}

    return dry_run


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.9.1", "2.13.0+cpu"])
def test_a_torch_that_is_there_stays(installs: Any, version: str) -> None:
    found = installs(version)
    assert found["hiper"] == PROJECT["version"]
    assert not {"torch", "torchvision"} & found.keys()


@pytest.mark.slow
def test_one_that_is_too_old_is_replaced(installs: Any) -> None:
    assert installs("2.8.0")["torch"] == NEWEST


@pytest.mark.slow
def test_the_exact_release_is_the_constraints_alone(installs: Any) -> None:
    assert installs(None, "-c", ROOT / "constraints.txt")["torch"] == PINS["torch"]
    (torch,) = [each for each in map(Requirement, PROJECT["dependencies"]) if each.name == "torch"]
    assert not {"==", "~="} & {each.operator for each in torch.specifier}


def test_the_pinned_set_is_within_the_ranges() -> None:
    extras = PROJECT["optional-dependencies"].values()
    for requirement in map(Requirement, chain(PROJECT["dependencies"], *extras)):
        if requirement.name != "hiper":
            assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement
