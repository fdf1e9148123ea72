"""What can be said of a fit without loading torch: times, speeds, and the place of its checkpoint."""

from __future__ import annotations

from pathlib import Path


def duration(seconds: float) -> str:
    """Return a time in the unit a person would use."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def rate(seconds_each: float) -> str:
    """Return a speed in the unit of time that makes it a readable number."""
    per_minute = 60 / max(seconds_each, 1e-6)
    if per_minute >= 120:
        return f"{per_minute / 60:.3g} a second"
    return f"{per_minute:.3g} a minute" if per_minute >= 1 else f"{per_minute * 60:.2g} an hour"


def checkpoint_beside(out: Path) -> Path:
    """Return the path of the checkpoint of a fit that is written to `out`."""
    return out.with_name(f"{out.name}.checkpoint")
