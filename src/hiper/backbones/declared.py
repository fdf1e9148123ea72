"""What the backbones' classes say of themselves, read from their source: importing them takes torch, and seconds."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from hiper.backbones.registry import GROUP, PIPELINES


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What the class of a pipeline declares.

    Attributes:
        pipeline: diffusers' name.
        family: "" where it depends on the checkpoint.
        denoiser: The component that draws.
        placement: Where a tail goes.
        tail: The reason, in the words of the class.
        max_length: In tokens; None where the tokenizer says it.
    """

    pipeline: str
    family: str
    denoiser: str
    placement: str
    tail: str
    max_length: int | None


@cache
def declarations() -> Mapping[str, Declared]:
    """Return what each supported pipeline's backbone declares, in alphabetical order."""
    targets = {**PIPELINES, **{entry.name: entry.value for entry in entry_points(group=GROUP)}}
    return {name: _declared(name, targets[name]) for name in sorted(targets)}


def _declared(pipeline: str, target: str) -> Declared:
    module, _, name = target.partition(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    values = _constants(found)
    max_length = values.get("max_length")
    return Declared(
        pipeline=pipeline,
        family=str(values.get("family", "")),
        denoiser=str(values.get("denoiser_name", "transformer")),
        placement=str(values.get("placement", "replace")),
        tail=_sentence_on_the_tail(ast.get_docstring(found) or ""),
        max_length=max_length if isinstance(max_length, int) else None,
    )


def _constants(found: ast.ClassDef) -> dict[str, object]:
    """Return names that are bound to a constant, in the class's body or as `self.name` in a method."""
    values: dict[str, object] = {}
    for node in ast.walk(found):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Constant):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", None)
                if name is not None:
                    values.setdefault(name, node.value.value)
    return values


def _sentence_on_the_tail(docstring: str) -> str:
    text = " ".join(docstring.split())
    _, start, rest = text.partition("The tail ")
    return f"{start}{rest.partition('. ')[0].rstrip('.')}." if start else ""
