"""All checks of an installation.

Nothing heavy is imported here: what may be broken is tried in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from hiper.analysis.doctor.base import Finding as Finding
from hiper.analysis.doctor.folders import embedded, hub, places
from hiper.analysis.doctor.libraries import imports
from hiper.analysis.doctor.releases import extras, packages, python


def examine() -> Iterator[Finding]:
    """Make all checks; the imports, which take seconds, come last."""
    yield python()
    yield from packages()
    yield from extras()
    yield from places()
    yield from hub()
    yield from embedded()
    yield from imports()
