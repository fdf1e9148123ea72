"""Capturing the attention of one prompt twice, with what was learnt and without, on the same noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Unpack, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from hiper.analysis.attention.maps import SIDE, Recorder
from hiper.analysis.attention.study import AttentionRun, Study
from hiper.analysis.attention.tokens import label_tokens
from hiper.artifacts import Artifact, check_compatible
from hiper.backbones import Backbone, StepCallback
from hiper.conditioning import Conditioning, lengthened
from hiper.critters import picture_notes
from hiper.errors import HiperWarning, ImageError, OptionError
from hiper.images import fit_square
from hiper.inference import (
    PreparedPrompt,
    cleaned_prompt,
    given_settings,
    prepared_prompt,
    resolve_settings,
    unsuitable,
)
from hiper.options import SamplingKwargs, SamplingSettings, Value, check_whole, resolve_strength
from hiper.seeds import generator, resolve_seed
from hiper.training import spread_levels

LEVELS = 20
"""Timesteps at which a given picture is read by default."""


def study_drawing(
    backbone: Backbone,
    artifact: Artifact,
    prompt: str | None = None,
    *,
    seed: int = 0,
    callback: StepCallback | None = None,
    **sampling: Unpack[SamplingKwargs],
) -> Study:
    """Draw a prompt with and without what was learnt, and capture the attention of both.

    The picture with what was learnt is the one that `hiper.edit` draws with keep=0, bit for bit; warnings are those
    of `edit`.

    Args:
        backbone: The model.
        artifact: What was learnt.
        prompt: None takes the artifact's caption.
        seed: Of both pictures.
        callback: Called with (steps done, steps in all), of both drawings together.
        **sampling: As in `hiper.edit`.

    Raises:
        OptionError: The model has no cross-attention, or the method draws in a way of its own; and as `edit`.
    """
    check_compatible(artifact, backbone)
    seed = resolve_seed(seed)
    notes: list[str] = []
    given = given_settings(notes, **sampling)
    if given.pop("keep", 0):
        notes.append("the attention is that of a new picture; keep is ignored")
    settings = resolve_settings(artifact.edit, backbone, notes, **given)
    progress = _Progress(callback, 2 * settings.num_inference_steps)

    def draw(prepared: PreparedPrompt) -> AttentionRun:
        notes.extend(unsuitable(backbone, prepared, settings, given))
        return _draw(backbone, prepared, settings, seed, progress)

    shown: dict[str, Value] = {
        name: value for name, value in asdict(settings).items() if name != "negative_prompt"
    }
    shown["seed"] = seed
    if settings.negative_prompt[0]:
        shown["negative prompt"] = settings.negative_prompt[0]
    asked = prompt, settings.strength, settings.negative_prompt
    return _study(backbone, artifact, asked, draw, notes, shown, drawn=True, mask=None)


def study_picture(
    backbone: Backbone,
    artifact: Artifact,
    picture: Image.Image,
    prompt: str | None = None,
    *,
    mask: Image.Image | None = None,
    seed: int = 0,
    strength: float | None = None,
    levels: int = LEVELS,
    callback: StepCallback | None = None,
) -> Study:
    """Capture how the model reads a picture under noise.

    Args:
        backbone: The model.
        artifact: What was learnt.
        picture: Mode RGB.
        prompt: Describes the picture; None takes the artifact's caption.
        mask: Mode L, of the picture's size, 255 where the subject is: then every figure says how much falls on it.
        seed: Of the noise.
        strength: As in `hiper.edit`.
        levels: Timesteps, spread evenly from noise to clean; 1 to the model's own number.
        callback: As in `study_drawing`.

    Raises:
        OptionError: As `study_drawing`.
        ImageError: The mask has another size.
    """
    check_compatible(artifact, backbone)
    if mask is not None and mask.size != picture.size:
        raise ImageError(
            f"the mask has {mask.width}x{mask.height} pixels, the picture {picture.width}x{picture.height}:"
            " give both the same size"
        )
    seed, factor = resolve_seed(seed), resolve_strength(artifact.edit, strength)
    count = check_whole("levels", levels, 1, backbone.timesteps)
    square = fit_square(picture, backbone.resolution)
    progress = _Progress(callback, 2 * count)

    def read(prepared: PreparedPrompt) -> AttentionRun:
        return _read(backbone, prepared.positive, square, seed, count, progress)

    shown: dict[str, Value] = {"strength": factor, "levels": count, "seed": seed}
    where = None if mask is None else _on_grid(fit_square(mask, backbone.resolution))
    notes = picture_notes(picture, backbone.id)
    return _study(backbone, artifact, (prompt, factor, ()), read, notes, shown, drawn=False, mask=where)


def _study(
    backbone: Backbone,
    artifact: Artifact,
    asked: tuple[str | None, float, Sequence[str]],
    run: Callable[[PreparedPrompt], AttentionRun],
    notes: list[str],
    settings: dict[str, Value],
    *,
    drawn: bool,
    mask: Tensor | None,
) -> Study:
    """Capture both runs; `asked` is the prompt, the strength and the negative prompts."""
    prompt, strength, negatives = asked
    cleaned = cleaned_prompt(artifact.caption if prompt is None else prompt, backbone, notes)
    with prepared_prompt(backbone, artifact, cleaned, strength, negatives, notes) as prepared:
        if prepared.sampler is not backbone:
            raise OptionError(
                f"method {artifact.method} draws in a way of its own, which cannot be captured; allowed are methods"
                " that the model itself draws with, such as hiper"
            )
        learnt = run(prepared)
    plain = lengthened(backbone.encode(cleaned), prepared.positive.sequence_length)
    others = [backbone.encode_negative(each) for each in negatives]
    untouched = run(
        PreparedPrompt(positive=plain, negatives=others, sampler=backbone, encode=backbone.encode)
    )
    for note in dict.fromkeys(notes):
        warnings.warn(note, HiperWarning, stacklevel=3)
    return Study(
        prompt=cleaned,
        caption=artifact.caption,
        method=artifact.method,
        backbone=backbone.id,
        drawn=drawn,
        settings=settings,
        learnt=learnt,
        untouched=untouched,
        mask=mask,
    )


def _draw(
    backbone: Backbone, prepared: PreparedPrompt, settings: SamplingSettings, seed: int, progress: _Progress
) -> AttentionRun:
    recorder = Recorder(
        pictures=1, steps=settings.num_inference_steps, aspect=settings.height / settings.width
    )

    def after_step(done: int, total: int) -> None:
        recorder.after_step(done, total)
        progress.step()

    with backbone.capture_attention(recorder.record):
        samples = backbone.sample(
            prepared.positive, prepared.negatives, settings, seeds=[seed], callback=after_step
        )
    return AttentionRun(
        picture=samples.images[0], tokens=label_tokens(prepared.positive), maps=recorder.maps()
    )


def _read(
    backbone: Backbone,
    conditioning: Conditioning,
    picture: Image.Image,
    seed: int,
    count: int,
    progress: _Progress,
) -> AttentionRun:
    random = generator(seed)
    latents = backbone.latents(picture, random)
    recorder = Recorder(pictures=1, steps=count)
    with backbone.capture_attention(recorder.record), torch.no_grad():
        for done, t in enumerate(spread_levels(count, (0, backbone.timesteps)).flip(0), start=1):
            noise = torch.randn(latents.shape, generator=random)
            noisy = backbone.add_noise(latents, noise, t[None]).noisy
            backbone.predict(noisy, t[None], conditioning)
            recorder.after_step(done, count)
            progress.step()
    return AttentionRun(picture=picture, tokens=label_tokens(conditioning), maps=recorder.maps())


@final
class _Progress:
    """Counts the steps of both runs."""

    def __init__(self, callback: StepCallback | None, total: int) -> None:
        self._callback, self._total, self._done = callback, total, 0

    def step(self) -> None:
        self._done = min(self._done + 1, self._total)
        if self._callback is not None:
            self._callback(self._done, self._total)


def _on_grid(mask: Image.Image) -> Tensor:
    """Average a mask (mode L) into [SIDE, SIDE], 0 to 1."""
    levels = torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255)
    return functional.adaptive_avg_pool2d(levels[None], SIDE)[0]
