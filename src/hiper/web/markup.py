"""Small pieces of HTML; every text from outside is escaped here."""

from __future__ import annotations

from PIL import Image, ImageOps

from hiper.artifacts import LibraryEntry
from hiper.html import escape
from hiper.images import thumbnail_data_url
from hiper.training import duration
from hiper.web.jobs import JobProgress

_SIDE, _CHARACTERS = 320, 60_000
"""Of a picture inside the page: pixels, and length as a data URL."""


def heading(model: str, embedded: bool) -> str:
    """Return the head of the page, with the name of the loaded model."""
    note = " It draws a toy world of six animals; name your own model by --backbone." if embedded else ""
    return (
        "<header class='hiper-head'><h1>hiper</h1>"
        "<p>Show it one picture. From then on, any sentence edits the subject.</p>"
        f"<p class='hiper-model'>Model: <strong>{escape(model)}</strong>.{note}</p></header>"
    )


def message(text: str) -> str:
    """Return one line of status, also for screen readers."""
    return f"<p class='hiper-status' role='status'>{escape(text)}</p>"


def empty(title: str, text: str) -> str:
    """Return a placeholder that says what to do."""
    return f"<div class='hiper-empty'><h2>{escape(title)}</h2><p>{escape(text)}</p></div>"


def picture(image: Image.Image, alt: str) -> str:
    """Return a picture inside the page, so that it is no file that others could request."""
    shown = ImageOps.contain(image, (_SIDE, _SIDE), Image.Resampling.LANCZOS)  # a small one is enlarged
    url = escape(thumbnail_data_url(shown, _SIDE, limit=_CHARACTERS))
    return f"<img class='hiper-picture' src='{url}' alt='{escape(alt)}'>"


def subject(entry: LibraryEntry) -> str:
    """Return the chosen subject: its picture, its caption, the model it was learnt on."""
    artifact = entry.artifact
    image = "" if entry.picture is None else picture(entry.picture, "The subject that is drawn")
    learnt = f"learnt on {artifact.backbone}, {artifact.created[:10]}"
    return (
        f"<div class='hiper-subject'>{image}<p><strong>{escape(artifact.caption)}</strong><br>"
        f"<span>{escape(learnt)}</span></p></div>"
    )


def bar(progress: JobProgress, before: int = 0) -> str:
    """Return a progress bar with its stage, steps and time left; or how many other jobs come before."""
    if before:
        return message(f"Waiting: {before} other job{'s' if before > 1 else ''} first…")
    if not progress.total:
        return message("Reading the model…")
    left = progress.seconds_left
    rest = "" if left is None else f", about {duration(left)} left"
    words = f"{progress.stage}: {progress.done} of {progress.total}{rest}"
    return (
        f"<div class='hiper-progress'><p>{escape(words)}</p>"
        f"<progress aria-label='{escape(progress.stage)}' value='{progress.done}' max='{progress.total}'>"
        "</progress></div>"
    )
