"""Checks of releases: Python and the packages against the metadata of hiper."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hiper.analysis.doctor.base import PIP, Finding, Level

EXTRAS: Mapping[str, str] = {
    "heic": "photographs in HEIC, as phones take them",
    "quant": "weights of 8 and 4 bits",
    "ray": "batches on a cluster",
    "ui": "the web page, hiper ui",
}
"""Extra to what it gives; the others are for work on hiper itself."""


def python() -> Finding:
    """Compare this Python with the range that hiper asks for."""
    allowed = SpecifierSet(metadata("hiper")["Requires-Python"])
    if allowed.contains(platform.python_version(), prereleases=True):
        return Finding(level="ok", subject="python", what=platform.python_version())
    return Finding(
        level="problem",
        subject="python",
        what=f"{platform.python_version()}, and hiper needs {allowed}",
        why="newer syntax and libraries are used",
        remedy="make demo PYTHON=python3.12 VENV=.venv-3.12",
    )


def packages() -> Iterator[Finding]:
    """Compare what is installed with what the package asks for."""
    for requirement in requirements(""):
        yield package(requirement, missing="problem")


def extras() -> Iterator[Finding]:
    """Check which extras are installed; a missing one is no problem."""
    for extra, gives in EXTRAS.items():
        found = [package(requirement, missing="note") for requirement in requirements(extra)]
        wrong = [each for each in found if each.level == "problem"]
        if wrong:
            yield from wrong
        elif any(each.level == "note" for each in found):
            remedy = f'{PIP} install "hiper[{extra}]"'
            yield Finding(
                level="note", subject=f"extra {extra}", what="not installed", why=gives, remedy=remedy
            )
        else:
            yield Finding(level="ok", subject=f"extra {extra}", what=gives)


def requirements(extra: str) -> list[Requirement]:
    """Return what hiper asks for by itself (extra ""), or beyond that for an extra."""
    asked = [Requirement(text) for text in requires("hiper") or ()]
    return [
        each
        for each in asked
        if (each.marker is None and not extra)
        or (each.marker and each.marker.evaluate({"extra": extra}) and _is_for(each, extra))
    ]


def _is_for(requirement: Requirement, extra: str) -> bool:
    assert requirement.marker is not None
    return not extra or not requirement.marker.evaluate({"extra": ""})


def package(requirement: Requirement, *, missing: Level) -> Finding:
    """Compare an installed package with its required range; `missing` is the level where it is not installed."""
    name, wanted = requirement.name, f"{requirement.name}{requirement.specifier}"
    remedy = f'{PIP} install "{wanted}"'
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(level=missing, subject=name, what="not installed", why="hiper needs it", remedy=remedy)
    if requirement.specifier.contains(found, prereleases=True):
        return Finding(level="ok", subject=name, what=found)
    return Finding(
        level="problem",
        subject=name,
        what=f"{found}, and {wanted} is supported",
        why="other releases have other names and other results",
        remedy=remedy,
    )
