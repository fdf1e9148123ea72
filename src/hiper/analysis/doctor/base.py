"""What is said of one thing that was looked at."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "problem"]

PIP = f"{shlex.quote(sys.executable)} -m pip"
"""How to call pip for the Python that runs."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """level: ok; note, good to know; warning, slower or poorer than need be; problem, something cannot work.

    remedy: a command, or "" where there is nothing to mend.
    """

    level: Level
    subject: str
    what: str
    why: str = ""
    remedy: str = ""
