"""Findings: the result of one check."""

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
    """The result of one check.

    Attributes:
        level: "ok"; "note", good to know; "warning", slower or poorer than need be; "problem", something cannot work.
        subject: What was checked.
        what: What was found.
        why: Why it matters.
        remedy: A command that repairs it; "" where there is nothing to repair.
    """

    level: Level
    subject: str
    what: str
    why: str = ""
    remedy: str = ""
