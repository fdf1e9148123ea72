"""From a function to a command: the fields of the dataclasses that it takes are the options, each declared there alone.

A field is an option where `typer.Option` or `typer.Argument` stands beside its type:

    @dataclass(frozen=True, kw_only=True)
    class Canvas:
        height: Annotated[int | None, Option(min=8, max=8192, help="Pixels.")] = None

    def paint(session: Session, canvas: Canvas) -> None:
        "Paint."

    add_command(app, paint, example="hiper paint --height 512")
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from hiper.cli.arguments import real, whole
from hiper.cli.session import Session

_METAVARS = {int: "N", float: "X", str: "NAME", Path: "FILE"}


class Only:
    """Beside a dataclass that a command takes: these of its fields are options, the others keep their defaults."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __contains__(self, name: str) -> bool:
        return name in self.names


class Without(Only):
    """Beside a dataclass that a command takes: all but these of its fields are options."""

    def __contains__(self, name: str) -> bool:
        return name not in self.names


def add_command(
    app: typer.Typer,
    job: Callable[..., None],
    *,
    example: str,
    panel: str | None = None,
    name: str | None = None,
) -> None:
    """Add a function to `app` as a command; it runs in the session that it takes.

    Args:
        app: The group of commands.
        job: The function; its docstring is the help.
        example: One line that ends the help.
        panel: The heading below which `hiper --help` lists the command.
        name: Of the command; default: the function's.
    """
    hints = get_type_hints(job, include_extras=True)
    options = {
        each: dict(_options(parameter, hints[each]))
        for each, parameter in inspect.signature(job).parameters.items()
    }

    def run(context: typer.Context, **given: Any) -> None:
        values: dict[str, Any] = {}
        for each, own in options.items():
            kind = _dataclass(hints[each])
            values[each] = given[each] if kind is None else kind(**_present(kind, given, own))
        session: Session = values["session"]
        session.arguments = context.obj or ()
        with session.opened():
            job(**values)

    context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    owners = sorted(options, key="session".__eq__)  # its options end the list
    parameters = [context, *(parameter for owner in owners for parameter in options[owner].values())]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__doc__ = job.__doc__
    app.command(name or job.__name__, rich_help_panel=panel, epilog=f"\b\nExample:\n  {example}")(run)


def _dataclass(hint: Any) -> type[Any] | None:
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return kind if is_dataclass(kind) and isinstance(kind, type) else None


def _options(parameter: Parameter, hint: Any) -> Iterator[tuple[str, Parameter]]:
    """Yield the options that a function's parameter stands for: itself, or those of its dataclass."""
    kind = _dataclass(hint)
    if kind is None:
        yield parameter.name, _option(parameter.name, hint, parameter.default)
        return
    hints = get_type_hints(kind, include_extras=True)
    chosen = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Only)), None)
    for field in fields(kind):
        if _info(hints[field.name]) is not None and (chosen is None or field.name in chosen):
            yield field.name, _option(field.name, hints[field.name], _default(field))


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return None
    return Parameter.empty if field.default is MISSING else field.default


def _present(kind: type[Any], given: Mapping[str, object], names: Iterable[str]) -> dict[str, object]:
    """Leave out what was not given and has a factory for it."""
    made = {field.name for field in fields(kind) if field.default_factory is not MISSING}
    return {name: given[name] for name in names if given[name] is not None or name not in made}


def _info(hint: Any) -> OptionInfo | ArgumentInfo | None:
    metadata = getattr(hint, "__metadata__", ())
    return next((each for each in metadata if isinstance(each, (OptionInfo, ArgumentInfo))), None)


def _option(name: str, hint: Any, default: Any) -> Parameter:
    """Complete a declaration: a flag has no --no-flag, numbers are read with our errors, metavars follow types."""
    info = copy.copy(_info(hint))
    assert info is not None
    declared = get_args(hint)[0]
    kinds = {each for part in (declared, *get_args(declared)) for each in (part, *get_args(part))} - {
        NoneType
    }
    if bool in kinds and info.default is ...:
        info.default = f"--{name.replace('_', '-')}"
    if int in kinds:
        info.parser = whole(info.min, info.max)
    if float in kinds:
        info.parser = real
    if info.metavar is None:
        info.metavar = next((word for each, word in _METAVARS.items() if each in kinds), None)
    info.min = info.max = None
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[declared, info])
