"""Suggest the nearest valid name for a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" when a known name resembles `name`, else ""."""
    matches = difflib.get_close_matches(name, [each for each in known if each != name], n=1, cutoff=0.6)
    return f" (did you mean {matches[0]}?)" if matches else ""
