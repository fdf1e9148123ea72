"""`hiper backbones`: what --backbone takes, what is there, and how strongly a model responds to a tail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from hiper.backbones import (
    EMBEDDED,
    LICENCES,
    Declared,
    LocalModel,
    Unusable,
    declarations,
    describe,
    models,
    pipeline_names,
)
from hiper.cli.fit import load_model
from hiper.cli.options import Device, Hardware, Talking
from hiper.cli.session import Session
from hiper.methods import EVIDENCE, suited

if TYPE_CHECKING:
    from hiper.analysis import Sensitivity


def backbones(
    session: Talking,
    hardware: Device,
    measure: Annotated[
        list[str] | None, Option(help="Measure how strongly this model responds to a tail; repeatable.")
    ] = None,
) -> None:
    """List supported pipelines and the models on this computer."""
    measured = list(dict.fromkeys(measure or ()))
    found = list(models())
    known = {each.name for each in found}
    found += [describe(name, Path(name)) for name in measured if name not in known and Path(name).is_dir()]
    figures = {name: _measure(session, name, hardware) for name in measured}
    record = {
        "embedded": list(EMBEDDED),
        "pipelines": pipeline_names(),
        "families": [asdict(each) for each in declarations().values()],
        "models": [_recorded(each) for each in found if isinstance(each, LocalModel)],
        "unusable": [asdict(each) for each in found if isinstance(each, Unusable)],
        "sensitivity": {name: {**asdict(each), "ratio": each.ratio} for name, each in figures.items()},
        "licences": dict(LICENCES),
    }
    session.console.result(record, [*_model_lines(found), *_figure_lines(figures), *_family_lines()])


def _recorded(model: LocalModel) -> dict[str, object]:
    preset = suited(model.name, EVIDENCE)
    return {**asdict(model), "preset": preset, "evidence": EVIDENCE[preset]}


def _measure(session: Session, name: str, hardware: Hardware) -> Sensitivity:
    with session.progress() as report:
        model = load_model(name, hardware, report)
        from hiper.analysis import sensitivity

        report(f"measuring {name}", 0, 0)
        return sensitivity(model)


def _model_lines(found: Sequence[LocalModel | Unusable]) -> Iterator[str]:
    yield "models on this computer (supported pipelines in the Hugging Face cache)"
    for each in found:
        yield f"  {each.name}"
        for line in [each.reason] if isinstance(each, Unusable) else _described(each):
            yield f"    {line}"


def _described(model: LocalModel) -> list[str]:
    stored = ", ".join(f"{count / 1e6:.1f} M {dtype}" for dtype, count in sorted(model.parameters.items()))
    half, full = (size(width * model.denoiser) for width in (2, 4))
    preset = suited(model.name, EVIDENCE)
    return [
        f"{model.declared.pipeline}, licence: {model.licence or 'see its page'}",
        f"prompt: {model.max_length or 'any number of'} tokens, width {model.width}; tail: {model.declared.placement}",
        f"weights: {size(model.bytes)} ({stored})",
        f"preset of a fit: {preset}, {EVIDENCE[preset]}",
        f"memory of a fit: the denoiser, {half} in bfloat16 or {full} in float32, and the activations of a step",
    ]


def size(count: int) -> str:
    """Return bytes in the unit a person would use."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _figure_lines(figures: dict[str, Sensitivity]) -> Iterator[str]:
    for name, each in figures.items():
        yield (
            f"{name}: swapping the last token embeddings changes the picture by {each.tail:.1f}, another seed by"
            f" {each.seed:.1f} (mean CIE76 of {each.pictures} pictures): ratio {each.ratio:.2f}"
        )


def _family_lines() -> Iterator[str]:
    yield "supported: a diffusers folder or Hub id of these pipelines, or one .safetensors file of SD 1, 2 or XL"
    for each in declarations().values():
        yield f"  {each.pipeline}: {_family(each)}"
        yield f"    {each.tail}"
    yield "licences of well-known checkpoints, as of this release; their pages are authoritative"
    for name, licence in LICENCES.items():
        yield f"  {name}: {licence}"


def _family(declared: Declared) -> str:
    family = f"family {declared.family}" if declared.family else "family sd1 or sd2, by width"
    return f"{family}, up to {declared.max_length} tokens" if declared.max_length else family
