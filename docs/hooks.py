"""Write the command-line reference from the commands themselves whenever the site is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files
from typer.main import get_command

PAGE = "reference/cli.md"


def on_files(files: Files, config: Any) -> Files:
    """Add the page that no file on the disk holds."""
    files.append(File.generated(config, PAGE, content=cli_reference()))
    return files


def cli_reference() -> str:
    """Return `--help` of every command as one Markdown page."""
    from hiper.cli.app import app

    return "# Command line\n\n" + "\n".join(_sections(get_command(app), "hiper", None))


def _sections(command: Any, name: str, parent: Any) -> Iterator[str]:
    context = command.make_context(name, [], parent, resilient_parsing=True)
    if parent is not None:
        title = context.command_path.partition(" ")[2]
        yield f"## {title}\n\n```text\n{command.get_help(context)}\n```\n"
    for child_name, child in getattr(command, "commands", {}).items():
        yield from _sections(child, child_name, context)
