"""The suites: a table of names to lazy imports, the entry points of "hiper.suites", and files of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiper.errors import OptionError
from hiper.options import unknown_choice

if TYPE_CHECKING:
    from hiper.bench.base import Suite

GROUP = "hiper.suites"
SUITES = {"critters": "hiper.bench.critters_suite:CrittersSuite"}
DEFAULT_SPLIT = "test"


@dataclass(frozen=True, kw_only=True)
class SuiteSpec:
    """All that is needed to build a suite, also in another process.

    Attributes:
        name: Of an installed suite, or the path of a .toml file.
        split: None takes "test".
        seed: 0 or more.
    """

    name: str
    split: str | None = None
    seed: int = 0


def suite_names() -> list[str]:
    """Return the names of all installed suites, in alphabetical order."""
    return sorted({*SUITES, *(entry.name for entry in entry_points(group=GROUP))})


def open_suite(spec: SuiteSpec) -> Suite:
    """Build a suite.

    Raises:
        OptionError: The name is unknown, or the file of one's own has a mistake.
    """
    if not spec.name.endswith(".toml"):
        suite: Suite = _suite_class(spec.name)(split=spec.split or DEFAULT_SPLIT, seed=spec.seed)
        return suite
    from hiper.bench.toml_suite import OwnSuite

    if spec.split is not None:
        raise OptionError(f"split is {spec.split!r}, but {spec.name!r} has no splits; leave --split away")
    return OwnSuite(Path(spec.name))


def _suite_class(name: str) -> Any:
    if name in SUITES:
        module, _, attribute = SUITES[name].partition(":")
        return getattr(import_module(module), attribute)
    for entry in entry_points(group=GROUP, name=name):
        return entry.load()
    raise unknown_choice("suite", name, suite_names(), " and the path of a .toml file")
