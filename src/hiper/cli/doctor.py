"""`hiper doctor`: say what is wrong with the installation, and the command that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import typer

from hiper.analysis.doctor import Finding, examine
from hiper.cli.options import Talking


def doctor(session: Talking) -> None:
    """Check this installation and say how to fix it. The exit status is 1 if something is broken."""
    with session.progress() as report:
        report("importing the libraries", 0, 0)
        findings = sorted(examine(), key=lambda each: _ORDER.index(each.level))
    usable = all(each.level != "problem" for each in findings)
    session.console.result(
        {"usable": usable, "findings": [asdict(each) for each in findings]}, _lines(findings, usable=usable)
    )
    if not usable:
        raise typer.Exit(1)


_ORDER = ("ok", "note", "warning", "problem")


def _lines(findings: Sequence[Finding], *, usable: bool) -> Iterator[str]:
    for each in findings:
        yield f"{each.level:9}{each.subject}: {each.what}"
        if each.why:
            yield f"{'':9}  {each.why}"
        if each.remedy:
            yield f"{'':9}  > {each.remedy}"
    yield (
        "hiper can be used"
        if usable
        else "hiper cannot be used as it is: mend the problems from the first on"
    )
