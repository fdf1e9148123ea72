"""The parts of the page; `app` connects their handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from hiper.methods import HiPer, HiPerOptions, untuned
from hiper.options import KEEP, specs
from hiper.web import markup

MAX_STRENGTH = 2.0
BRUSH = 40
"""Pixels of the copy that is painted on."""
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


class LearnPage:
    """The first page: from a picture to a subject."""

    def __init__(self, *, embedded: bool) -> None:
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                _heading("1. Your picture")
                self.upload = gr.File(
                    label="Drop a picture of one subject",
                    file_types=PICTURES,
                    height=160,
                    type="filepath",
                    elem_classes="hiper-upload",
                )
                self.shown = gr.HTML("", padding=False)
                self.example = gr.Button("Give me an example picture", size="sm", visible=embedded)
                self.caption = gr.Textbox(
                    "", label="What the picture shows", placeholder="a standing dog", max_length=1000, lines=1
                )
                with gr.Row():
                    self.start = gr.Button("Learn this subject", variant="primary", scale=3, min_width=160)
                    self.stop = gr.Button("Stop", variant="stop", interactive=False, scale=1, min_width=80)
                with gr.Accordion("How to learn", open=False):
                    self.previews = gr.Checkbox(
                        label="Show previews while learning",
                        info="Costs a little time, changes nothing else.",
                    )
                    suited = "default" if embedded else untuned(HiPer.presets)
                    self.preset = gr.Dropdown(list(HiPer.presets), value=suited, label="Preset")
                    self.steps = _number("num_train_steps", "Steps", suited)
                    self.tail = _number("tail", "Token embeddings", suited)
                    self.rate = _number("learning_rate", "Learning rate", suited, precision=None)
                    self.seed = gr.Number(0, label="Seed of the fit", precision=0, info="-1 draws one.")
            with gr.Column(scale=5, min_width=300):
                _heading("2. Learning")
                self.status = gr.HTML(NOTHING_LEARNT)
                self.go_on = gr.Button("Go on: draw with it", variant="primary", visible=False)
                self.loss = gr.LinePlot(
                    x="step",
                    y="loss",
                    label="Loss, mean of the last steps",
                    elem_classes="hiper-loss",
                    height=220,
                    visible=False,
                    buttons=[],
                )
                self.strip = gr.Gallery(
                    label="Previews: the caption, drawn on the way",
                    elem_classes="hiper-strip",
                    show_label=False,
                    columns=4,
                    fit_columns=False,
                    visible=False,
                    buttons=[],
                    interactive=False,
                )
        self.picture = gr.State("")
        self.suggested = gr.State("")


class DrawPage:
    """The second page: from prompts to pictures.

    The model's own guidance and steps are set until a subject is chosen.
    """

    def __init__(self, schedulers: Sequence[str], *, guidance_scale: float, num_inference_steps: int) -> None:
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                _heading("Your subject")
                self.subject = gr.HTML(NO_SUBJECT)
                self.tail = gr.DownloadButton("Download its tail file", size="sm", interactive=False)
                self.sentences = gr.Textbox(
                    "",
                    label="Sentences, one on each line",
                    lines=4,
                    max_lines=12,
                    placeholder="a sitting dog\na dog on the beach",
                )
                self.strength = gr.Slider(
                    0,
                    MAX_STRENGTH,
                    value=0.8,
                    step=0.05,
                    label="Strength",
                    info="More: more like your subject. Less: freer with the sentence.",
                )
                self.keep = gr.Slider(
                    0,
                    1,
                    value=KEEP,
                    step=0.05,
                    label="Keep",
                    info="How much of your picture stays where the sentence does not change it. 0: a new picture.",
                )
                self.partly = gr.Checkbox(
                    label="Change only a part", info="The rest keeps its pixels.", interactive=False
                )
                with gr.Group(visible=False) as self.where:
                    self.painting = gr.ImageEditor(
                        label="Paint here",
                        type="pil",
                        sources=(),
                        transforms=(),
                        layers=False,
                        buttons=[],
                        brush=gr.Brush(default_size=BRUSH, colors=["#d40000"], color_mode="fixed"),
                        eraser=gr.Eraser(default_size=BRUSH),
                        height=420,
                        elem_classes="hiper-painting",
                    )
                    self.box = gr.Textbox(
                        "",
                        label="Or a box",
                        info="Instead of painting: left,top,right,bottom in pixels.",
                        max_length=80,
                        lines=1,
                    )
                with gr.Row():
                    self.images = gr.Slider(
                        1, 16, value=4, step=1, label="Pictures per sentence", min_width=140
                    )
                    self.seed = gr.Number(0, label="First seed", precision=0, min_width=100)
                with gr.Row():
                    self.start = gr.Button("Draw", variant="primary", scale=2, min_width=90)
                    self.search = gr.Button("Search for good seeds", scale=3, min_width=160)
                    self.stop = gr.Button("Stop", variant="stop", interactive=False, scale=1, min_width=80)
                with gr.Accordion("More settings", open=False):
                    self.candidates = gr.Slider(
                        8,
                        64,
                        value=24,
                        step=4,
                        label="Seeds to search",
                        info="That many quick draws per sentence; the best are drawn in full.",
                    )
                    self.guidance_scale = gr.Slider(
                        1,
                        15,
                        value=guidance_scale,
                        step=0.5,
                        label="Guidance",
                        info="Weight of the sentence.",
                    )
                    self.num_inference_steps = gr.Slider(
                        1, 100, value=num_inference_steps, step=1, label="Drawing steps"
                    )
                    self.scheduler = gr.Dropdown(list(schedulers), value=schedulers[0], label="Sampler")
                    self.negative = gr.Textbox("", label="What to keep away from", lines=1)
                    self.show_mask = gr.Checkbox(label="Show where each picture could change")
            with gr.Column(scale=6, min_width=300):
                _heading("Pictures")
                self.status = gr.HTML(NOTHING_DRAWN)
                self.gallery = _gallery("Drawn pictures", "hiper-drawn", 4, ["download", "fullscreen"])
                self.compare = gr.ImageSlider(
                    label="Before and after",
                    visible=False,
                    interactive=False,
                    max_height=420,
                    buttons=["download"],
                )
                self.archive = gr.DownloadButton("Download all pictures (ZIP)", visible=False)


class LibraryPage:
    """The third page: the subjects learnt before."""

    def __init__(self) -> None:
        _heading("Choose a subject to draw it")
        self.empty = gr.HTML(EMPTY_LIBRARY)
        self.shelf = _gallery("Subjects", "hiper-shelf", 5, [])
        self.upload = gr.UploadButton(
            "Load a tail file (.safetensors)", file_types=[".safetensors"], type="filepath"
        )


def _gallery(label: str, kind: str, columns: int, buttons: list[str]) -> Any:
    """Return a gallery of square pictures, hidden until there are any."""
    return gr.Gallery(
        label=label,
        show_label=False,
        columns=columns,
        fit_columns=False,
        elem_classes=["hiper-pictures", kind],
        object_fit="contain",
        height="auto",
        visible=False,
        interactive=False,
        buttons=buttons,
        allow_preview=False,
    )


def _number(name: str, label: str, preset: str, precision: int | None = 0) -> Any:
    """Return a field for an option of the method, with the preset's value."""
    spec = _OPTIONS[name][1]
    info = f"{spec.text[0].upper()}{spec.text[1:]}."
    return gr.Number(preset_value(preset, name), label=label, info=info, precision=precision)


def preset_value(preset: str, name: str) -> Any:
    """Return the value of an option of the method in one of its presets."""
    return HiPer().options(preset).as_mapping()[name]


def _heading(text: str) -> None:
    gr.HTML(f"<h2>{text}</h2>", padding=False)
