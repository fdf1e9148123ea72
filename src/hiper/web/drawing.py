"""Handlers of the second page: draw sentences, search seeds, compare a picture with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, final

import gradio as gr
from PIL import Image, ImageOps

from hiper.web import markup
from hiper.web.handlers import NOTHING, TICK, Reported, Update, session_id, warn
from hiper.web.jobs import BackgroundJob, JobStopped
from hiper.web.layout import DrawPage
from hiper.web.pictures import Picture, archive
from hiper.web.service import DrawRequest, DrawState, EditedPart, Service


@final
class DrawHandlers:
    """Handlers of `DrawPage`.

    Args:
        service: Starts the jobs.
        page: The parts of the page.
        choice: The State with the name of the session's subject.
        drawn: The State with the session's pictures, in the gallery's order.

    Attributes:
        inputs: What a `handler` takes, in that order.
    """

    def __init__(self, service: Service, page: DrawPage, *, choice: Any, drawn: Any) -> None:
        self._service, self._page, self._drawn = service, page, drawn
        self.inputs = [
            choice,
            page.sentences,
            page.strength,
            page.keep,
            page.images,
            page.seed,
            page.guidance_scale,
            page.num_inference_steps,
            page.scheduler,
            page.negative,
            page.candidates,
            page.partly,
            page.painting,
            page.box,
            page.show_mask,
        ]

    def began(self, request: gr.Request) -> Update:
        """Show at once that the job starts, and enable the button that stops it."""
        self._service.sessions.ask(session_id(request))
        return {self._page.status: markup.message("Starting…"), **self._buttons(idle=False)}

    def handler(self, *, searching: bool) -> Callable[..., Iterator[Update]]:
        """Return a handler that draws pictures of every prompt, with the best seeds if `searching`."""

        def handle(
            name: str,
            sentences: str,
            strength: float,
            keep: float,
            images: int,
            seed: int,
            guidance_scale: float,
            num_inference_steps: int,
            scheduler: str,
            negative: str,
            candidates: int,
            partly: bool,
            painting: Mapping[str, Any] | None,
            box: str,
            show_mask: bool,
            request: gr.Request,
        ) -> Iterator[Update]:
            session = session_id(request)
            lines = (line.strip() for line in sentences.splitlines())
            request = DrawRequest(
                sentences=[*dict.fromkeys(line for line in lines if line)],
                images=int(images),
                first_seed=int(seed or 0),
                strength=strength,
                guidance_scale=guidance_scale,
                num_inference_steps=int(num_inference_steps),
                scheduler=None if keep else scheduler,
                negative_prompt=negative,
                keep=keep,
                part=EditedPart(layers=(painting or {}).get("layers") or (), box=box) if partly else None,
                show_mask=show_mask,
            )
            start = (
                partial(self._service.search, candidates=int(candidates)) if searching else self._service.draw
            )
            yield from self._run(name, session, partial(start, session, name, request))

        return handle

    def idle(self) -> Update:
        """Enable the buttons again, whatever has happened."""
        return self._buttons(idle=True)

    def stop(self, request: gr.Request) -> Update:
        """Ask the job to stop, which then reports it; what was drawn stays."""
        self._service.sessions.stop(session_id(request))
        return {self._page.stop: gr.update(interactive=False)}

    def compare(self, name: str, drawn: list[Picture], event: gr.SelectData) -> Update:
        """Put the chosen picture beside its source."""
        with Reported():
            return self._compared(name, drawn[event.index])
        return NOTHING

    def _run(
        self, name: str, session: str, start: Callable[[], tuple[BackgroundJob[None], DrawState]]
    ) -> Iterator[Update]:
        try:
            with Reported():
                job, watch = start()
                yield from self._followed(job, watch)
                job.result()
                yield self._finished(name, session, watch)
                return
            yield {self._page.status: markup.message("Not drawn."), **self.idle()}
        except JobStopped:
            yield {self._page.status: markup.message("Stopped."), **self.idle()}

    def _followed(self, job: BackgroundJob[None], watch: DrawState) -> Iterator[Update]:
        seen = 0
        for _ in job.ticks(TICK):
            update: Update = {self._page.status: markup.bar(job.progress, job.before)}
            if len(watch.pictures) > seen:
                seen = len(watch.pictures)
                update |= self._shown(watch.pictures)
            yield update

    def _shown(self, pictures: Sequence[Picture]) -> Update:
        items = [(str(picture.path), picture.caption) for picture in pictures]
        return {self._page.gallery: gr.update(value=items, visible=True), self._drawn: list(pictures)}

    def _finished(self, name: str, session: str, watch: DrawState) -> Update:
        warn(watch.notes)
        bundle = archive(watch.pictures, self._service.sessions.new_folder(session) / "pictures.zip")
        drawn = sum(not picture.is_mask for picture in watch.pictures)
        words = f"Drawn: {drawn} pictures. Choose one to compare it with the source."
        return {
            self._page.status: markup.message(words),
            self._page.archive: gr.update(value=str(bundle), visible=True),
            **self._shown(watch.pictures),
            **self._compared(name, watch.pictures[0]),
            **self.idle(),
        }

    def _compared(self, name: str, picture: Picture) -> Update:
        source = self._service.library.open(name).picture
        if source is None:
            return {self._page.compare: gr.update(visible=False)}
        with Image.open(picture.path) as after:
            pair = (ImageOps.fit(source, after.size), after.copy())
        return {
            self._page.compare: gr.update(
                value=pair, visible=True, label=f"Before and after: {picture.caption}"
            )
        }

    def _buttons(self, *, idle: bool) -> Update:
        return {
            self._page.start: gr.update(interactive=idle),
            self._page.search: gr.update(interactive=idle),
            self._page.stop: gr.update(interactive=not idle),
        }
