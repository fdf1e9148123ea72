"""A fit that shows on the way what it has learnt: it stops, draws one quick picture, and goes on from its checkpoint.

A resumed fit is the same to the last bit as one that was never stopped, so previews change nothing but the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.errors import Interrupted
from hiper.images import Subject
from hiper.inference.editing import edit
from hiper.methods import HiPer, HiPerOptions
from hiper.options import SamplingKwargs
from hiper.training import FitControl, FitPaused, ProgressEvent, TrainingState

QUICK, QUICK_STEPS, OTHER_STEPS = "dpm++", 4, 8
"""What draws a preview, in how many steps, where the model has it; else its own sampler: enough for a likeness."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The caption drawn with what had been learnt after `step` steps."""

    step: int
    image: Image.Image


def preview_steps(steps: int, count: int) -> tuple[int, ...]:
    """Return `count` steps at even distances inside a fit of `steps` steps, fewer where it is too short."""
    evenly = (steps * (i + 1) // (count + 1) for i in range(count))
    return tuple(dict.fromkeys(step for step in evenly if step > 0))


def fit_with_previews(
    backbone: Backbone,
    subject: Subject,
    options: HiPerOptions,
    *,
    at: Sequence[int],
    on_preview: Callable[[Preview], None],
    control: FitControl,
) -> Artifact:
    """Fit as the method `hiper` does, with previews; errors are those of a fit.

    Two previews between two checks of a fit, or that a resumed fit has passed, become one.

    Args:
        backbone: The model.
        subject: What is learnt.
        options: Of the method.
        at: Steps after which the caption is drawn.
        on_preview: Called with each preview.
        control: Its checkpoint is where the fit saves itself, also for previews; the caller removes it.
    """
    assert control.checkpoint is not None
    method, reached = HiPer(), 0

    def note(record: ProgressEvent) -> None:
        nonlocal reached
        reached = record.step
        control.report(record)

    pausing = replace(control, callback=note)
    while True:
        pausing = replace(pausing, pause_at=next((step for step in at if step > reached), None))
        try:
            return method.fit(backbone, subject, options, pausing)
        except FitPaused:
            saved = replace(control.checkpoint, resume=True)
        pausing = replace(pausing, checkpoint=saved)
        so_far = method.unfinished(backbone, subject, options, TrainingState.from_file(saved.path))
        on_preview(Preview(step=reached, image=_drawn(backbone, so_far, subject.caption, control)))


def _drawn(backbone: Backbone, so_far: Artifact, caption: str, control: FitControl) -> Image.Image:
    def on_step(done: int, total: int) -> None:
        if signal_number := control.stop_signal():
            raise Interrupted(f"stopped by signal {signal_number} while a preview was drawn", signal_number)

    quick = SamplingKwargs(num_inference_steps=OTHER_STEPS, keep=0.0)
    if QUICK in backbone.schedulers:
        quick = SamplingKwargs(num_inference_steps=QUICK_STEPS, scheduler=QUICK, keep=0.0)
    return edit(backbone, so_far, caption, callback=on_step, **quick).images[0]
