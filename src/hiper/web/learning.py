"""Handlers of the first page: reading a picture, learning it, showing the progress."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import gradio as gr
import pandas as pd
from PIL import Image

from hiper.analysis import demo_scene
from hiper.artifacts import LibraryEntry
from hiper.critters import bare_caption, describe, picture_notes, render, word_notes
from hiper.errors import CaptionError, ImageError, Interrupted
from hiper.images import Subject, open_image, shown
from hiper.methods import HiPer
from hiper.training import ProgressEvent, duration
from hiper.web import markup
from hiper.web.handlers import TICK, Reported, Update, session_id, warn
from hiper.web.jobs import BackgroundJob, JobStopped
from hiper.web.layout import LearnPage, preset_value
from hiper.web.library_tab import LibraryTab
from hiper.web.service import FitWatch, Service
from hiper.web.uploads import Uploads

_SMOOTHED = 20
"""Windows of steps that a point of the loss curve averages over: the loss of a single step is too noisy."""
_POINTS = 200
"""Points of the loss curve at most."""


@final
class Learning:
    """Handlers of `LearnPage`; their first arguments are the values of its inputs."""

    def __init__(self, service: Service, uploads: Uploads, page: LearnPage, shelf: LibraryTab) -> None:
        self._service, self._uploads, self._page, self._shelf = service, uploads, page, shelf
        self._examples = itertools.count()

    def given(self, path: str, caption: str, suggested: str, request: gr.Request) -> Iterator[Update]:
        """Refuse an unusable picture at once; on critters, suggest a caption unless one was written."""
        try:
            with self._uploads.taken(path):
                loaded = open_image(path)
        except ImageError as error:
            yield {self._page.upload: None, **self.cleared()}
            with Reported():
                raise ImageError(str(error).replace(shown(path), shown(Path(path).name))) from error
            return
        warn([*loaded.notes, *picture_notes(loaded.image, self._service.backbone.id)])
        yield self._pictured(loaded.image, request)
        if self._service.embedded and caption in ("", suggested):
            guess = describe(loaded.image)
            yield {self._page.caption: guess, self._page.suggested: guess}

    def cleared(self) -> Update:
        """Remove the picture."""
        return {self._page.picture: "", self._page.shown: ""}

    def example(self, request: gr.Request) -> Update:
        """Draw an animal that the model has never seen, another one each time."""
        scene = demo_scene(next(self._examples))
        caption = bare_caption(scene)
        page = self._page
        return {
            page.upload: None,
            page.caption: caption,
            page.suggested: caption,
            **self._pictured(render(scene), request),
        }

    def _pictured(self, image: Image.Image, request: gr.Request) -> Update:
        path = str(self._service.picture_file(session_id(request), image))
        return {
            self._page.picture: path,
            self._page.shown: markup.picture(image, "The picture that is learnt"),
        }

    def began(self, request: gr.Request) -> Update:
        """Show at once that the job starts, and enable the button that stops it."""
        self._service.sessions.ask(session_id(request))
        return {
            self._page.status: markup.message("Starting…"),
            self._page.start: gr.update(interactive=False),
            self._page.stop: gr.update(interactive=True),
            self._page.go_on: gr.update(visible=False),
            self._page.strip: gr.update(value=[], visible=False),
        }

    def learn(
        self,
        picture: str,
        caption: str,
        preset: str,
        steps: int | None,
        tail: int | None,
        rate: float | None,
        seed: int | None,
        previews: bool,
        request: gr.Request,
    ) -> Iterator[Update]:
        """Fit, showing progress, and add the subject to the library."""
        given = {"num_train_steps": steps, "tail": tail, "learning_rate": rate, "seed": seed}
        try:
            with Reported():
                subject = _subject(picture, caption)
                words = word_notes(subject.caption, "caption", self._service.backbone.id)
                warn([*subject.notes, *words])
                options = HiPer().options(preset, **{k: v for k, v in given.items() if v is not None})
                job, watch = self._service.learn(session_id(request), subject, options, previews=previews)
                yield from self._followed(job, watch)
                yield self._learnt(job.result(), session_id(request))
                return
            yield {self._page.status: markup.message("Nothing was learnt."), **self.idle()}
        except (Interrupted, JobStopped):
            yield self._stopped(job)

    def preset_chosen(self, preset: str) -> Update:
        """Show the preset's numbers, which can then be changed."""
        page = self._page
        numbers = {page.steps: "num_train_steps", page.tail: "tail", page.rate: "learning_rate"}
        return {part: preset_value(preset, name) for part, name in numbers.items()}

    def stop(self, request: gr.Request) -> Update:
        """Ask the fit to stop, which then reports how far it came."""
        self._service.sessions.stop(session_id(request))
        return {self._page.stop: gr.update(interactive=False)}

    def _followed(self, job: BackgroundJob[LibraryEntry], watch: FitWatch) -> Iterator[Update]:
        seen = 0
        for _ in itertools.chain(job.ticks(TICK), [None]):  # and once more for what came last
            update: Update = {self._page.status: markup.bar(job.progress, job.before)}
            if watch.records:
                update[self._page.loss] = gr.update(value=_curve(watch.records), visible=True)
            if len(watch.previews) > seen:
                seen = len(watch.previews)
                pictures = [(each.image, f"step {each.step}") for each in watch.previews]
                update[self._page.strip] = gr.update(value=pictures, visible=True)
            yield update

    def _learnt(self, entry: LibraryEntry, session: str) -> Update:
        figures = entry.artifact.figures
        words = (
            f"Learnt “{entry.artifact.caption}” in {duration(figures['seconds'])}: the loss on a fixed set went"
            f" from {figures['loss_before']:.4f} to {figures['loss_after']:.4f}."
        )
        return {
            self._page.status: markup.message(words),
            self._page.go_on: gr.update(visible=True),
            **self.idle(),
            **self._shelf.chosen(entry, session),
            **self._shelf.listed(),
        }

    def _stopped(self, job: BackgroundJob[Any]) -> Update:
        progress = job.progress
        words = "Stopped."
        if progress.total:
            words = (
                f"Stopped after step {progress.done} of {progress.total}. Learn again to go on from there."
            )
        return {self._page.status: markup.message(words), **self.idle()}

    def idle(self) -> Update:
        """Enable the buttons again, whatever has happened."""
        return {
            self._page.start: gr.update(interactive=True),
            self._page.stop: gr.update(interactive=False),
        }


def _subject(picture: str, caption: str) -> Subject:
    if not picture:
        raise ImageError("no picture yet; drop one into the frame, or choose a file")
    if not caption.strip():
        raise CaptionError("the caption is empty; say in a sentence what the picture shows")
    return Subject.open(picture, caption=caption)


def _curve(records: Sequence[ProgressEvent]) -> pd.DataFrame:
    """Return the running mean of the loss, thinned out."""
    records = list(records)  # the fit appends to it meanwhile
    losses = pd.Series([record.loss for record in records])
    smooth = losses.rolling(_SMOOTHED, min_periods=1).mean()
    table = pd.DataFrame({"step": [record.step for record in records], "loss": smooth})
    return table.iloc[:: max(1, len(table) // _POINTS)]
