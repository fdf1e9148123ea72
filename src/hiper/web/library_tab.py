"""Handlers of the library page, which also show the chosen subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import gradio as gr
from PIL import Image

from hiper.artifacts import LibraryEntry
from hiper.errors import ArtifactError
from hiper.files import visible
from hiper.inference import resolve_settings
from hiper.options import SamplingSettings
from hiper.web import markup
from hiper.web.handlers import NOTHING, Reported, Update, session_id, warn
from hiper.web.layout import EMPTY_LIBRARY, MAX_STRENGTH, DrawPage, LibraryPage
from hiper.web.service import Service
from hiper.web.uploads import Uploads

_NAMED = 5
"""Entries that cannot be read and get a note of their own when the page is opened."""
NO_PICTURE = Image.new("RGB", (64, 64), "lightgrey")


@final
class LibraryTab:
    """Handlers of `LibraryPage`.

    Args:
        service: Has the library.
        uploads: Files of sessions.
        page: The parts of the page.
        draw: The page that shows the chosen subject.
        choice: The State with the name of the session's subject.
        names: The State with the names of all subjects, in order.
        tabs: All pages.
    """

    def __init__(
        self,
        service: Service,
        uploads: Uploads,
        page: LibraryPage,
        draw: DrawPage,
        *,
        choice: Any,
        names: Any,
        tabs: Any,
    ) -> None:
        self._service, self._uploads, self._page, self._draw = service, uploads, page, draw
        self._choice, self._names, self._tabs = choice, names, tabs

    def listed(self) -> Update:
        """Show all subjects of the library."""
        return self._shelved(self._service.subjects().entries)

    def _shelved(self, entries: Sequence[LibraryEntry]) -> Update:
        pictures = [(entry.picture or NO_PICTURE, visible(entry.artifact.caption)) for entry in entries]
        return {
            self._page.shelf: gr.update(value=pictures, visible=bool(entries)),
            self._page.empty: "" if entries else EMPTY_LIBRARY,
            self._names: [entry.name for entry in entries],
        }

    def chosen(self, entry: LibraryEntry, session: str) -> Update:
        """Choose a subject, with its own settings."""
        own = self._settings(entry)
        return {
            self._choice: entry.name,
            self._draw.subject: markup.subject(entry),
            self._draw.strength: min(own.strength, MAX_STRENGTH),
            self._draw.guidance_scale: own.guidance_scale,
            self._draw.num_inference_steps: own.num_inference_steps,
            self._draw.keep: gr.update(value=own.keep, interactive=entry.artifact.source is not None),
            self._draw.partly: gr.update(value=False, interactive=entry.artifact.source is not None),
            self._draw.where: gr.update(visible=False),
            self._draw.box: "",
            self._draw.scheduler: own.scheduler,
            self._draw.tail: gr.update(value=str(self._service.tail_file(session, entry)), interactive=True),
        }

    def kept(self, name: str, keep: float) -> Update:
        """Show how many steps suit the chosen subject where so much of its picture is kept."""
        if not name:
            return NOTHING
        own = self._settings(self._service.library.open(name), keep)
        return {self._draw.num_inference_steps: own.num_inference_steps}

    def parted(self, name: str, partly: bool) -> Update:
        """Show the chosen subject's picture, to paint where it may change."""
        with Reported():
            canvas = self._service.canvas(name) if partly else None
            painting = None if canvas is None else {"background": canvas, "layers": [], "composite": None}
            return {self._draw.where: gr.update(visible=partly), self._draw.painting: painting}
        return {self._draw.partly: False}

    def _settings(self, entry: LibraryEntry, keep: float | None = None) -> SamplingSettings:
        artifact = entry.artifact
        return resolve_settings(artifact.edit, self._service.backbone, [], keep=keep, source=artifact.source)

    def choose(self, names: list[str], request: gr.Request, event: gr.SelectData) -> Update:
        """Choose a subject of the library."""
        with Reported():
            entry = self._service.library.open(names[event.index])
            return {**self.chosen(entry, session_id(request)), self._tabs: gr.update(selected="draw")}
        return NOTHING

    def bring(self, path: str, request: gr.Request) -> Update:
        """Add an artifact from elsewhere."""
        with Reported(), self._uploads.taken(path):
            try:
                entry = self._service.adopt(Path(path))
            except ArtifactError as error:
                raise ArtifactError(str(error).replace(path, Path(path).name)) from error
            return {
                **self.chosen(entry, session_id(request)),
                **self.listed(),
                self._tabs: gr.update(selected="draw"),
            }
        return NOTHING

    def opened(self) -> Update:
        """Show the library when the page is opened, and name what cannot be read."""
        with Reported():
            found = self._service.subjects()
            warn(found.damaged[:_NAMED])
            if (more := len(found.damaged) - _NAMED) > 0:
                warn([f"{more} more entries of the library cannot be read"])
            return self._shelved(found.entries)
        return NOTHING
