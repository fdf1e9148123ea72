"""The rooms of the package: what imports what. docs/architecture.md explains them."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import hiper

PACKAGE = Path(hiper.__file__).parent
ROOT_MODULES = {"__init__", "__main__", "errors", "notes", "seeds"}
FLOORS = 12
FILES = {
    ".".join((path.parent / path.stem).relative_to(PACKAGE.parent).parts): path
    for path in PACKAGE.rglob("*.py")
}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def room(module: str) -> str:
    """The folder that a module is in, or the module itself where that is the package's own folder."""
    if MODULES[module].stem == "__init__" or module.count(".") == 1:
        return module
    return module.rpartition(".")[0]


@cache
def exported(package: str) -> frozenset[str]:
    """What the `__init__.pyi` of a room lists."""
    stub = MODULES[package].with_suffix(".pyi")
    return frozenset(_imported(stub)) if stub.exists() else frozenset()


def _imported(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def imports() -> Iterator[tuple[str, str, str]]:
    """Yield (module, module it imports from, name), imports inside of functions and for type checkers included."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "hiper":
                for alias in node.names:
                    below = f"{node.module}.{alias.name}"
                    is_module = below in MODULES and alias.name not in exported(str(node.module))
                    yield module, below if is_module else str(node.module), alias.name


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Height of each room above those it imports from, the lowest 1; graphlib.CycleError for a circle."""
    heights: dict[str, int] = {}
    for each in TopologicalSorter(graph).static_order():
        heights[each] = 1 + max((heights[below] for below in graph.get(each, ())), default=0)
    return heights


def test_few_modules_are_in_the_root() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} <= ROOT_MODULES


def test_imports_run_one_way_between_rooms_and_between_files() -> None:
    rooms: dict[str, set[str]] = {}
    files: dict[str, set[str]] = {}
    for module, below, _ in imports():
        files.setdefault(module, set()).add(below)
        if room(module) != room(below):
            rooms.setdefault(room(module), set()).add(room(below))
    floors(files)
    assert max(floors(rooms).values()) <= FLOORS


def test_nobody_reaches_past_a_rooms_init() -> None:
    assert not [
        f"{module} takes {name} from {below}"
        for module, below, name in imports()
        if room(module) != room(below) != below
    ]


def test_the_picture_of_the_rooms_shows_real_arrows() -> None:
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
    shown = [line.split(" --> ") for line in page.splitlines() if " --> " in line]
    arrows = {
        (above.strip(), below)
        for left, right in shown
        for above in left.split(" & ")
        for below in right.split(" & ")
    }
    real = {(room(a).removeprefix("hiper."), room(b).removeprefix("hiper.")) for a, b, _ in imports()}
    assert arrows
    assert arrows <= real
    assert {each for arrow in arrows for each in arrow} >= {
        each
        for arrow in real
        for each in arrow
        if each in {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    }


_EARLIER = """
told untold heard spliced splice word_vectors diffuse Diffused parked Turns texts_once recomputes Watch
Attended watching offers needs Begun Recipe looks undo settled StepRecord Applied applied lent Walking Descent
climb draws_by nouns Easel Workshop Yardstick Cell own_suite Crew crew Fleet Gone hire stirring dissolve
easel yardsticks unheard verdict strange_rows
stillborn Here orders Verdict Shelf Studio EditWish Visitors voice Pen attempt
"""
EARLIER_WORDS = set(_EARLIER.split())
"""Private words for what the field has a name for."""


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Every name that a module defines, binds, or asks another object for."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.ClassDef(name=name)
                | ast.FunctionDef(name=name)
                | ast.arg(arg=name)
                | ast.Name(id=name)
                | ast.Attribute(attr=name)
                | ast.alias(asname=str(name))
            ):
                yield name.strip("_")


def test_a_class_is_defined_once() -> None:
    found = Counter(
        node.name
        for path in FILES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in found.items() if count > 1] == []


def test_names_are_the_field_s() -> None:
    trees = {module: ast.parse(path.read_text()) for module, path in FILES.items()}
    assert [
        f"{module}: {name}"
        for module, tree in trees.items()
        for name in sorted(set(identifiers(tree)) & EARLIER_WORDS)
    ] == []
