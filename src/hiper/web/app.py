"""The page: three tabs, and the handlers of their events."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hiper.web import markup
from hiper.web.drawing import DrawHandlers
from hiper.web.handlers import session_id
from hiper.web.layout import DrawPage, LearnPage, LibraryPage
from hiper.web.learning import Learning
from hiper.web.library_tab import LibraryTab
from hiper.web.service import Service
from hiper.web.uploads import Uploads

_AT_ONCE: dict[str, Any] = {"concurrency_limit": None}
"""Of every event: jobs wait in a queue of our own. Without its queue Gradio could not show messages."""
_FILES_LIVE = (600, 86_400)
"""Seconds: how often sessions' old files are looked for, and how old they become."""
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Of every event: progress is ours to show, and there is no second way in."""


def build(service: Service, uploads: Uploads) -> gr.Blocks:
    """Build the page and connect its handlers; nothing is served yet."""

    def leave(request: gr.Request) -> None:
        service.sessions.forget(session_id(request))
        uploads.prune()

    with gr.Blocks(title="hiper", analytics_enabled=False, delete_cache=_FILES_LIVE) as page:
        gr.HTML(markup.heading(service.backbone.id, embedded=service.embedded))
        choice, names, drawn = gr.State(""), gr.State([]), gr.State([])
        with gr.Tabs(selected="learn") as tabs:
            with gr.Tab("Learn", id="learn"):
                learn = LearnPage(embedded=service.embedded)
            with gr.Tab("Draw", id="draw"):
                draw = DrawPage(
                    service.backbone.schedulers,
                    guidance_scale=service.backbone.default_guidance_scale,
                    num_inference_steps=service.backbone.default_num_inference_steps,
                )
            with gr.Tab("Library", id="library"):
                library = LibraryPage()
        everything = [*_parts(learn), *_parts(draw), *_parts(library), choice, names, drawn, tabs]
        drawing_shows = [
            draw.start, draw.search, draw.stop, draw.status, draw.gallery, draw.compare, draw.archive, drawn
        ]  # fmt: skip
        shelf = LibraryTab(service, uploads, library, draw, choice=choice, names=names, tabs=tabs)
        _wire_learning(Learning(service, uploads, learn, shelf), learn, everything)
        _wire_drawing(
            DrawHandlers(service, draw, choice=choice, drawn=drawn), draw, choice, drawn, drawing_shows
        )
        draw.partly.input(shelf.parted, [choice, draw.partly], everything, **_AT_ONCE, **_QUIET)
        draw.keep.release(shelf.kept, [choice, draw.keep], draw.num_inference_steps, **_AT_ONCE, **_QUIET)
        learn.go_on.click(lambda: gr.update(selected="draw"), None, tabs, **_AT_ONCE, **_QUIET)
        library.shelf.select(shelf.choose, [names], everything, **_AT_ONCE, **_QUIET)
        library.upload.upload(shelf.bring, [library.upload], everything, **_AT_ONCE, **_QUIET)
        page.load(shelf.opened, None, everything, **_QUIET)
        page.unload(leave)
    page.queue()
    return page


def _wire_learning(learning: Learning, page: LearnPage, everything: list[Any]) -> None:
    given = [page.upload, page.caption, page.suggested]
    page.upload.upload(learning.given, given, everything, **_QUIET)
    page.upload.clear(learning.cleared, None, everything, **_AT_ONCE, **_QUIET)
    page.example.click(learning.example, None, everything, **_AT_ONCE, **_QUIET)
    inputs = [
        page.picture,
        page.caption,
        page.preset,
        page.steps,
        page.tail,
        page.rate,
        page.seed,
        page.previews,
    ]
    began = page.start.click(learning.began, None, everything, **_AT_ONCE, **_QUIET)
    running = began.then(learning.learn, inputs, everything, **_AT_ONCE, **_QUIET)
    running.failure(learning.idle, None, everything, **_AT_ONCE, **_QUIET)
    numbers = [page.steps, page.tail, page.rate]
    page.preset.input(learning.preset_chosen, [page.preset], numbers, **_AT_ONCE, **_QUIET)
    page.stop.click(learning.stop, None, everything, **_AT_ONCE, **_QUIET)


def _wire_drawing(drawing: DrawHandlers, page: DrawPage, choice: Any, drawn: Any, shows: list[Any]) -> None:
    for button, searching in ((page.start, False), (page.search, True)):
        began = button.click(drawing.began, None, shows, **_AT_ONCE, **_QUIET)
        job = began.then(drawing.handler(searching=searching), drawing.inputs, shows, **_AT_ONCE, **_QUIET)
        job.failure(drawing.idle, None, shows, **_AT_ONCE, **_QUIET)
    page.stop.click(drawing.stop, None, shows, **_AT_ONCE, **_QUIET)
    page.gallery.select(drawing.compare, [choice, drawn], shows, **_AT_ONCE, **_QUIET)


_TYPED = {
    LearnPage: {"preset", "steps", "tail", "rate", "seed", "previews"},
    DrawPage: {"sentences", "images", "seed", "negative", "candidates", "show_mask"},
    LibraryPage: set[str](),
}
"""What a person fills in and no handler changes: as an output it could be put back while it is filled in."""


def _parts(page: LearnPage | DrawPage | LibraryPage) -> list[Any]:
    return [part for name, part in vars(page).items() if name not in _TYPED[type(page)]]
