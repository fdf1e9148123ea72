"""The parts of the page and how they stand together; what they do is wired in `app`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from hiper.methods import HiPer, HiPerOptions, untuned
from hiper.options import specs
from hiper.web import markup

MAX_STRENGTH = 2.0
PICTURES = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic"]
_OPTIONS = specs(HiPerOptions)
NOTHING_LEARNT = markup.empty(
    "Nothing learnt yet",
    "Give a picture of one subject and say in a sentence what it shows. Learning takes a while once; "
    "drawing new sentences is quick from then on.",
)
NOTHING_DRAWN = markup.empty(
    "Nothing drawn yet", "Write what the subject should do, one sentence on each line, and press Draw."
)
NO_SUBJECT = markup.empty(
    "No subject chosen",
    "Learn one on the first page, or choose one that you have learnt before from the library.",
)
EMPTY_LIBRARY = markup.empty(
    "Your library is empty",
    "Everything you learn is kept here. You can also bring a tail file that was learnt elsewhere.",
)


@dataclass(frozen=True, kw_only=True)
class LearnPage:
    """From a picture to a subject."""

    upload: Any
    shown: Any
    picture: Any
    example: Any
    caption: Any
    suggested: Any
    preset: Any
    steps: Any
    rows: Any
    rate: Any
    seed: Any
    previews: Any
    start: Any
    stop: Any
    go_on: Any
    status: Any
    loss: Any
    strip: Any


@dataclass(frozen=True, kw_only=True)
class DrawPage:
    """From sentences to pictures."""

    subject: Any
    tail: Any
    sentences: Any
    strength: Any
    keep: Any
    images: Any
    seed: Any
    guidance: Any
    steps: Any
    scheduler: Any
    negative: Any
    candidates: Any
    start: Any
    search: Any
    stop: Any
    status: Any
    gallery: Any
    compare: Any
    archive: Any


@dataclass(frozen=True, kw_only=True)
class LibraryPage:
    """The subjects learnt before."""

    shelf: Any
    empty: Any
    upload: Any


def learn_page(*, embedded: bool) -> LearnPage:
    """Build the first page."""
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            _heading("1. Your picture")
            upload = gr.File(
                label="Drop a picture of one subject",
                file_types=PICTURES,
                height=160,
                type="filepath",
                elem_classes="hiper-upload",
            )
            shown = gr.HTML("", padding=False)
            example = gr.Button("Give me an example picture", size="sm", visible=embedded)
            caption = gr.Textbox(
                "", label="What the picture shows", placeholder="a standing dog", max_length=1000, lines=1
            )
            with gr.Row():
                start = gr.Button("Learn this subject", variant="primary", scale=3, min_width=160)
                stop = gr.Button("Stop", variant="stop", interactive=False, scale=1, min_width=80)
            with gr.Accordion("How to learn", open=False):
                previews = gr.Checkbox(
                    label="Show previews while learning", info="Costs a little time, changes nothing else."
                )
                suited = "default" if embedded else untuned(HiPer.presets)
                preset = gr.Dropdown(list(HiPer.presets), value=suited, label="Preset")
                steps = _number("steps", "Steps", suited)
                rows = _number("tail", "Rows", suited)
                rate = _number("learning_rate", "Learning rate", suited, precision=None)
                seed = gr.Number(0, label="Seed of the fit", precision=0, info="-1 draws one.")
        with gr.Column(scale=5, min_width=300):
            _heading("2. Learning")
            status = gr.HTML(NOTHING_LEARNT)
            go_on = gr.Button("Go on: draw with it", variant="primary", visible=False)
            loss = gr.LinePlot(
                x="step",
                y="loss",
                label="Loss, mean of the last steps",
                elem_classes="hiper-loss",
                height=220,
                visible=False,
                buttons=[],
            )
            strip = gr.Gallery(
                label="Previews: the caption, drawn on the way",
                elem_classes="hiper-strip",
                show_label=False,
                columns=4,
                fit_columns=False,
                visible=False,
                buttons=[],
                interactive=False,
            )
    return LearnPage(
        upload=upload,
        shown=shown,
        picture=gr.State(""),
        example=example,
        caption=caption,
        suggested=gr.State(""),
        preset=preset,
        steps=steps,
        rows=rows,
        rate=rate,
        seed=seed,
        previews=previews,
        start=start,
        stop=stop,
        go_on=go_on,
        status=status,
        loss=loss,
        strip=strip,
    )


def draw_page(schedulers: Sequence[str], *, guidance_scale: float, drawing_steps: int) -> DrawPage:
    """Build the second page; the model's own scale and steps stand there until a subject is chosen."""
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            _heading("Your subject")
            subject = gr.HTML(NO_SUBJECT)
            tail = gr.DownloadButton("Download its tail file", size="sm", interactive=False)
            sentences = gr.Textbox(
                "",
                label="Sentences, one on each line",
                lines=4,
                max_lines=12,
                placeholder="a sitting dog\na dog on the beach",
            )
            strength = gr.Slider(
                0,
                MAX_STRENGTH,
                value=0.8,
                step=0.05,
                label="Strength",
                info="More: more like your subject. Less: freer with the sentence.",
            )
            keep = gr.Slider(
                0,
                1,
                value=0,
                step=0.05,
                label="Keep",
                info="How much of your picture stays where the sentence does not change it. 0: a new picture.",
            )
            with gr.Row():
                images = gr.Slider(1, 16, value=4, step=1, label="Pictures per sentence", min_width=140)
                seed = gr.Number(0, label="First seed", precision=0, min_width=100)
            with gr.Row():
                start = gr.Button("Draw", variant="primary", scale=2, min_width=90)
                search = gr.Button("Search for good seeds", scale=3, min_width=160)
                stop = gr.Button("Stop", variant="stop", interactive=False, scale=1, min_width=80)
            with gr.Accordion("More settings", open=False):
                candidates = gr.Slider(
                    8,
                    64,
                    value=24,
                    step=4,
                    label="Seeds to search",
                    info="That many quick draws per sentence; the best are drawn in full.",
                )
                guidance = gr.Slider(
                    1, 15, value=guidance_scale, step=0.5, label="Guidance", info="Weight of the sentence."
                )
                steps = gr.Slider(1, 100, value=drawing_steps, step=1, label="Drawing steps")
                scheduler = gr.Dropdown(list(schedulers), value=schedulers[0], label="Sampler")
                negative = gr.Textbox("", label="What to keep away from", lines=1)
        with gr.Column(scale=6, min_width=300):
            _heading("Pictures")
            status = gr.HTML(NOTHING_DRAWN)
            gallery = gr.Gallery(
                label="Drawn pictures",
                show_label=False,
                columns=4,
                fit_columns=False,
                elem_classes=["hiper-pictures", "hiper-drawn"],
                object_fit="contain",
                height="auto",
                visible=False,
                interactive=False,
                buttons=["download", "fullscreen"],
                allow_preview=False,
            )
            compare = gr.ImageSlider(
                label="Before and after",
                visible=False,
                interactive=False,
                max_height=420,
                buttons=["download"],
            )
            archive = gr.DownloadButton("Download all pictures (ZIP)", visible=False)
    return DrawPage(
        subject=subject,
        tail=tail,
        sentences=sentences,
        strength=strength,
        keep=keep,
        images=images,
        seed=seed,
        guidance=guidance,
        steps=steps,
        scheduler=scheduler,
        negative=negative,
        candidates=candidates,
        start=start,
        search=search,
        stop=stop,
        status=status,
        gallery=gallery,
        compare=compare,
        archive=archive,
    )


def library_page() -> LibraryPage:
    """Build the third page."""
    _heading("Choose a subject to draw it")
    empty = gr.HTML(EMPTY_LIBRARY)
    shelf = gr.Gallery(
        label="Subjects",
        show_label=False,
        columns=5,
        fit_columns=False,
        elem_classes=["hiper-pictures", "hiper-shelf"],
        object_fit="contain",
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=False,
    )
    upload = gr.UploadButton("Load a tail file (.safetensors)", file_types=[".safetensors"], type="filepath")
    return LibraryPage(shelf=shelf, empty=empty, upload=upload)


def _number(name: str, label: str, preset: str, precision: int | None = 0) -> Any:
    """A number that an option of the method takes, at first the preset's."""
    spec = _OPTIONS[name][1]
    info = f"{spec.text[0].upper()}{spec.text[1:]}."
    return gr.Number(preset_value(preset, name), label=label, info=info, precision=precision)


def preset_value(preset: str, name: str) -> Any:
    """What an option of the method is in one of its presets."""
    return HiPer().options(preset).as_mapping()[name]


def _heading(text: str) -> None:
    gr.HTML(f"<h2>{text}</h2>", padding=False)
