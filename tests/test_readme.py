"""The commands of README and docs/: every option exists, and those of README's first edits run as printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hiper.cli.app import app
from tests.conftest import Cli

ROOT = Path(__file__).parent.parent
HIPER: Any = get_command(app)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def blocks(page: Path) -> list[str]:
    """Return the blocks of code of a page, lines that end in a backslash joined."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    return re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words behind `hiper` of every such command in a page's blocks and sentences."""
    inline = re.findall(r"`(hiper [^`]+)`", page.read_text(encoding="utf-8").replace("\n", " "))
    for line in [*"".join(blocks(page)).splitlines(), *inline]:
        if line.removeprefix("$ ").startswith("hiper "):
            yield shlex.split(line.removeprefix("$ "), comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_of_the_documents_exists(page: Path) -> None:
    for given in commands(page):
        resolve(given)


def resolve(given: list[str]) -> Any:
    """Return the command that words name; a usage error for an option that it has not."""
    command, words = HIPER, list(given)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    command.make_parser(command.context_class(command)).parse_args(words)
    return command


def test_the_help_of_every_command_ends_with_an_example_of_it() -> None:
    groups = [HIPER, *(each for each in HIPER.commands.values() if hasattr(each, "commands"))]
    for command in (each for group in groups for each in group.commands.values() if each not in groups):
        program, *words = shlex.split(command.epilog.splitlines()[-1])
        assert (program, resolve(words)) == ("hiper", command)


@pytest.mark.slow
def test_the_first_edits_of_the_readme_run_as_printed(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (console,) = (block for block in blocks(ROOT / "README.md") if block.startswith("$ hiper demo"))
    for line in console.splitlines():
        if line.startswith("$ "):
            outcome = cli(*shlex.split(line)[2:])
            assert outcome.status == 0, outcome.err
        else:
            file = line.split(" ")[0]
            assert file in outcome.out
            assert (tmp_path / file).stat().st_size > 0
