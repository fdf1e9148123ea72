"""`hiper selfcheck`: a short fit and a few pictures, in a form worth pasting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from hiper.cli.fit import load_model
from hiper.cli.options import BackboneName, Hardware
from hiper.cli.session import Session
from hiper.errors import OptionError

if TYPE_CHECKING:
    from hiper.analysis import SelfCheck
    from hiper.backbones import Backbone
    from hiper.images import Subject


def selfcheck(
    session: Session,
    hardware: Hardware,
    *,
    backbone: BackboneName,
    image: Annotated[
        Path | None, Option(metavar="IMAGE", help="Picture to fit; default: a cartoon animal.")
    ] = None,
    caption: Annotated[str | None, Option(metavar="TEXT", help="What that picture shows.")] = None,
    steps: Annotated[int, Option(min=1, max=1000, help="Steps of the short fit.")] = 20,
) -> None:
    """Test a model in about a minute. Prints loss, response to a tail, time and memory, ready to paste."""
    if (image is None) != (caption is None):
        raise OptionError("a picture needs its caption, and a caption its picture; give both, or neither")
    with session.progress() as report:
        model = load_model(backbone, hardware, report)
        from hiper.analysis import selfcheck as check

        found = check(model, _subject(model, image, caption), steps=steps, progress=report)
    asked = {"quantise": hardware.quantise, "memory": hardware.memory}
    session.console.result({**found.as_record(), **asked}, _lines(found, hardware))


def _subject(backbone: Backbone, image: Path | None, caption: str | None) -> Subject:
    from hiper.images import Subject

    if image is not None and caption is not None:
        return Subject.open(image, caption=caption)
    from hiper.analysis import demo_scene
    from hiper.critters import bare_caption, render

    scene = demo_scene(0)
    return Subject.from_image(render(scene, backbone.resolution), caption=bare_caption(scene))


def _lines(found: SelfCheck, hardware: Hardware) -> Iterator[str]:
    sensitivity, gain = found.sensitivity, found.loss_after / found.loss_before - 1
    quantised = f", {hardware.quantise}" if hardware.quantise else ""
    yield f"model        {found.backbone} {found.revision}".rstrip()
    yield (
        f"family       {found.family}: {found.max_length} x {found.embed} token embeddings,"
        f" placement {found.placement}, {found.objective}, {found.resolution} pixels"
    )
    yield f"device       {found.device}, {found.dtype}{quantised}, memory {hardware.memory}"
    yield f"loss         {found.loss_before:.4f} -> {found.loss_after:.4f} ({gain:+z.2%}) in {found.steps} steps"
    yield (
        f"sensitivity  {sensitivity.tail:.1f} from other last token embeddings,"
        f" {sensitivity.seed:.1f} from another seed: {sensitivity.ratio:.2f}"
    )
    yield (
        f"time         {found.seconds_per_step:.3g} s a step, {found.seconds_per_picture:.3g} s a picture"
        f" of {found.picture_steps} steps"
    )
    yield f"peak memory  {found.peak_memory_bytes / 1e9:.2f} GB"
    yield f"versions     {', '.join(f'{name} {number}' for name, number in found.versions.items())}"
