"""The commands: below which heading `hiper --help` lists each, and the example that ends its help."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup

from hiper.cli import bench, estimate
from hiper.cli.artifacts import average, export, import_file, methods, show
from hiper.cli.attention import attention
from hiper.cli.backbones import backbones
from hiper.cli.batch import batch
from hiper.cli.command import add_command
from hiper.cli.demo import demo
from hiper.cli.doctor import doctor
from hiper.cli.edit import edit
from hiper.cli.fit import fit
from hiper.cli.rerun import rerun
from hiper.cli.run import run
from hiper.cli.selfcheck import selfcheck
from hiper.cli.sweep import sweep
from hiper.cli.tune import tune
from hiper.cli.ui import ui


class Panels(TyperGroup):
    """A group whose help lists the commands below their headings."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section for each heading, in the order in which they were added."""
        panels: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.commands))
        for name, each in self.commands.items():
            line = each.get_short_help_str(formatter.width - width - 6)
            panels.setdefault(getattr(each, "rich_help_panel", None) or "Commands", []).append(
                (f"{name:{width}}", line)
            )
        for panel, lines in panels.items():
            with formatter.section(panel):
                formatter.write_dl(lines)


def _group(name: str | None = None, **settings: Any) -> typer.Typer:
    return typer.Typer(
        name=name,
        cls=Panels,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


app = _group()


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hiper {version('hiper')}")
        raise typer.Exit


@app.callback()
def hiper(
    show_version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """hiper learns the subject of one picture, then edits it by text."""  # noqa: D403


START, NEXT, MEASURE, SYSTEM = "Start here", "More", "Measure", "System"
DOG = 'dog.png --caption "a standing dog"'

add_command(app, demo, panel=START, example="hiper demo")
add_command(app, fit, panel=START, example=f"hiper fit {DOG} --out dog.safetensors")
add_command(app, edit, panel=START, example='hiper edit dog.safetensors "a sitting dog" --out pictures')
add_command(app, run, panel=START, example=f'hiper run {DOG} "a sitting dog" --out pictures')
add_command(app, ui, panel=START, example="hiper ui --backbone path/to/model")
add_command(app, show, panel=NEXT, example="hiper show dog.safetensors")
add_command(app, rerun, panel=NEXT, example="hiper rerun pictures/a-sitting-dog-0.png")
add_command(
    app, average, panel=NEXT, example="hiper average one.safetensors two.safetensors --out dog.safetensors"
)
add_command(app, batch, panel=NEXT, example="hiper batch jobs.jsonl --out results --workers 2")
add_command(app, tune, panel=NEXT, example=f"hiper tune {DOG} --backbone path/to/model --out mine")
add_command(
    app,
    import_file,
    name="import",
    panel=NEXT,
    example='hiper import tail.pt --caption "a standing dog" --backbone path/to/model --out dog.safetensors',
)
add_command(app, export, panel=NEXT, example="hiper export dog.safetensors --out embedding.safetensors")

bench_app = _group("bench", help="Compare methods on a suite of subjects and edits.")
add_command(bench_app, bench.run, example="hiper bench run critters --methods hiper --methods none --out run")
add_command(bench_app, bench.report, example="hiper bench report run")
app.add_typer(bench_app, rich_help_panel=MEASURE)
estimate_app = _group(
    "estimate",
    help="Predict time and memory of a fit or an edit. Counts operations and times a few calls.",
)
add_command(estimate_app, estimate.fit, example="hiper estimate fit --backbone path/to/model")
add_command(estimate_app, estimate.edit, example="hiper estimate edit --backbone path/to/model --images 4")
app.add_typer(estimate_app, rich_help_panel=MEASURE)
add_command(app, sweep, panel=MEASURE, example="hiper sweep critters --over tail=1,2,5 --out run")
add_command(app, attention, panel=MEASURE, example="hiper attention dog.safetensors --out attention")

add_command(app, backbones, panel=SYSTEM, example="hiper backbones --measure critters")
add_command(app, methods, panel=SYSTEM, example="hiper methods")
add_command(app, selfcheck, panel=SYSTEM, example="hiper selfcheck --backbone path/to/model")
add_command(app, doctor, panel=SYSTEM, example="hiper doctor")
