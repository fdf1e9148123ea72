"""Estimates of the time and memory of a fit or an edit, before it starts.

Operations, memory and seconds are those of a few real calls of each kind, times how often the job makes them. The
first call is that of one timestep, or of one picture: by what it needs a larger one is known not to fit before it
is tried.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Unpack

import torch
from accelerate.utils import get_max_memory
from PIL import Image
from torch import Tensor

from hiper.analysis.counting import Work, counting
from hiper.analysis.selfcheck import peak_memory
from hiper.backbones import Backbone
from hiper.conditioning import Conditioning, expanded
from hiper.images import MIN_SIDE, Subject, fit_square
from hiper.inference import resolve_settings
from hiper.methods import HiPer, HiPerOptions, get_method
from hiper.options import SamplingKwargs, SamplingSettings
from hiper.seeds import generator
from hiper.training import EVALUATIONS, EVALUATIONS_FOR_BEST, TrainingTask, looked_at_once

CAPTION = "a picture"
LONG, TRIES = 5.0, 5
"""A call that took fewer seconds than LONG while it was counted is made again, at most so often, to be timed."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of work.

    Attributes:
        name: In words.
        times: How often the job does it.
        work: Of one, counted; None where it is only timed.
        seconds: Of one, measured here; None where it was not tried.
    """

    name: str
    times: float
    work: Work | None
    seconds: float | None

    @property
    def all_seconds(self) -> float | None:
        """Seconds of all of it."""
        return None if self.seconds is None else self.seconds * self.times


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes, on the device that computes.

    Attributes:
        loading: Weights there at once when the model is loaded.
        working: Weights that stay while the job computes.
        computed: The peak of activations, gradients and pictures, counted.
        free: Left after loading.
        reached: The process's peak after the real calls, libraries included; on cuda that of the device.
    """

    loading: int
    working: int
    computed: int
    free: int
    reached: int

    @property
    def needed(self) -> int:
        """Weights and what is computed, without libraries."""
        return max(self.loading, self.working + self.computed)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job will take.

    Attributes:
        job: In words.
        backbone: The model's name.
        device: That computes.
        dtype: Of the weights.
        threads: That torch computes with.
        side: The picture's larger side in pixels.
        parts: The job's pieces.
        memory: That it needs and that there is.
    """

    job: str
    backbone: str
    device: str
    dtype: str
    threads: int
    side: int
    parts: tuple[Part, ...]
    memory: Memory

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole job after the model is loaded; None where a part was not tried."""
        every = [part.all_seconds for part in self.parts]
        return sum(each for each in every if each is not None) if None not in every else None

    @property
    def flops(self) -> float:
        """Counted operations of the whole job."""
        return sum(part.work.flops * part.times for part in self.parts if part.work is not None)

    @property
    def fits(self) -> bool:
        """Whether there is room beside the loaded weights: nothing was left untried."""
        return self.seconds is not None

    def as_record(self) -> dict[str, object]:
        """Return all of it, ready for JSON."""
        whole = {"seconds": self.seconds, "flops": self.flops, "fits": self.fits}
        return {**asdict(self), **whole, "memory": {**asdict(self.memory), "needed": self.memory.needed}}


def estimate_fit(backbone: Backbone, options: HiPerOptions) -> Estimate:
    """Estimate a fit by the method hiper with these options."""
    method = get_method(HiPer.name)
    assert isinstance(method, HiPer)
    subject = Subject.from_image(Image.new("RGB", (MIN_SIDE, MIN_SIDE), "gray"), caption=CAPTION)
    preparing = _seconds(partial(_prepared, backbone, subject), backbone.device)
    options = method.resolve(options, backbone, subject)
    one = method.prepare(backbone, subject, replace(options, batch=1))
    task = method.prepare(backbone, subject, options)
    at_once = looked_at_once(options.batch)
    evaluating = method.prepare(backbone, subject, replace(options, batch=at_once))
    evaluations = 2 + (EVALUATIONS_FOR_BEST if options.keep == "best" else 0)
    begun = time.perf_counter()
    with backbone.training_mode():
        moving = time.perf_counter() - begun
        step = _Call(one=partial(_step, one), all=partial(_step, task), size=options.batch).part(
            "step", options.num_train_steps, backbone.device
        )
        evaluation = _Call(
            one=partial(_evaluate, one), all=partial(_evaluate, evaluating), size=at_once
        ).part("evaluate the loss", evaluations * EVALUATIONS / at_once, backbone.device)
    parts = (
        Part(name="encode the picture, hash the weights", times=1, work=None, seconds=preparing),
        Part(name="offload and restore other components", times=2, work=None, seconds=moving),
        evaluation,
        step,
    )
    levels = "timestep" if options.batch == 1 else "timesteps"
    job = f"fit, {options.num_train_steps} steps of {options.batch} {levels}"
    working = backbone.weight_bytes()[backbone.denoiser_name]
    return _estimate(backbone, job, backbone.resolution, parts, working)


def usual_settings(backbone: Backbone, notes: list[str], **given: Unpack[SamplingKwargs]) -> SamplingSettings:
    """Return the settings of an edit of a file that holds its source; a note on them goes to `notes`."""
    source = torch.zeros(1, *backbone.latent_shape)
    return resolve_settings({}, backbone, notes, source=source, **given)


def estimate_edit(
    backbone: Backbone, settings: SamplingSettings, *, images: int, batch_size: int, sentences: int = 1
) -> Estimate:
    """Estimate an edit.

    Args:
        backbone: The model.
        settings: Of the drawing.
        images: Pictures of each prompt, 1 or more.
        batch_size: Pictures at a time.
        sentences: Prompts.
    """
    at_once = min(images, batch_size)
    calls = sentences * images / at_once * (2 if settings.keep else 1)  # the source's prompt and the new one
    negative = backbone.encode_negative("")
    positive = backbone.encode(CAPTION)
    takes_negatives = any(
        name.startswith("negative") for name in backbone.pipeline_kwargs(positive, [negative])
    )
    guided = takes_negatives and backbone.uses_negative_prompt_at(settings.guidance_scale)
    drawing = _Call(
        one=_prediction(backbone, settings, positive, 2 if guided else 1),
        all=_prediction(backbone, settings, positive, at_once * (2 if guided else 1)),
        size=at_once,
    )
    _ = backbone.denoiser  # brings it into memory where text encoders and denoiser take turns
    parts = (
        Part(
            name="read the sentences",
            times=sentences + 1,
            work=None,
            seconds=_seconds(partial(backbone.encode, CAPTION), backbone.device),
        ),
        drawing.part("step", calls * settings.num_inference_steps, backbone.device),
        _decoding(backbone, _noise(backbone, settings, 1), sentences * images, at_once),
    )
    plural = "picture" if images == 1 else "pictures"
    job = (
        f"edit, {sentences} x {images} {plural} of {settings.num_inference_steps} steps, {at_once} at a time"
    )
    side = max(settings.height, settings.width)
    return _estimate(backbone, job, side, parts, _weights(backbone))


def _estimate(backbone: Backbone, job: str, side: int, parts: tuple[Part, ...], working: int) -> Estimate:
    works = [part.work for part in parts if part.work is not None]
    return Estimate(
        job=job,
        backbone=backbone.id,
        device=str(backbone.device),
        dtype=str(backbone.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        side=side,
        parts=parts,
        memory=Memory(
            loading=_weights(backbone),
            working=working,
            computed=max(work.peak for work in works),
            free=free_memory(backbone.device),
            reached=peak_memory(backbone.device),
        ),
    )


def _weights(backbone: Backbone) -> int:
    """Return the bytes of weights on the device at once: of all components, or of the larger of two that take turns."""
    sizes = backbone.weight_bytes()
    encoders = sum(size for name, size in sizes.items() if name.startswith("text_encoder"))
    rest = sum(sizes.values()) - encoders
    return max(encoders, rest) if backbone.takes_turns else encoders + rest


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device (on cpu and mps, of the computer), and those that torch has cached there."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    cached = 0
    if device.type == "mps":
        cached = torch.mps.driver_allocated_memory() - torch.mps.current_allocated_memory()
    return int(get_max_memory()["cpu"]) + cached


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A repeated call: with `size` timesteps or pictures at once, and with one alone."""

    one: Callable[[], object]
    all: Callable[[], object]
    size: int

    def part(self, name: str, times: float, device: torch.device) -> Part:
        """Count and time it, unless it would not fit."""
        if self.size > 1:
            work = _times(_counted(self.one, device)[0], self.size)
            if work.peak > free_memory(device):
                return Part(name=name, times=times, work=work, seconds=None)
        work, seconds = _counted(self.all, device)
        return Part(
            name=name,
            times=times,
            work=work,
            seconds=seconds if seconds >= LONG else _usual_seconds(self.all, device),
        )


def _counted(call: Callable[[], object], device: torch.device) -> tuple[Work, float]:
    """Make one call; return its work, and its seconds, which counting makes a little longer."""
    with counting() as counter:
        seconds = _seconds(call, device)
    return counter.work(), seconds


def _times(work: Work, size: int) -> Work:
    """Return the work of a call with a larger batch; the bytes of weights count too often."""
    return Work(**{name: value * size for name, value in asdict(work).items()})


def _decoding(backbone: Backbone, latents: Tensor, pictures: int, at_once: int) -> Part:
    """Count and time on one picture; all at once take that many times its memory, where that is there."""
    decode = partial(backbone.decode, latents)
    part = _Call(one=decode, all=decode, size=1).part("decode a picture", pictures, backbone.device)
    assert part.work is not None
    peak = part.work.peak * at_once
    fits = peak <= free_memory(backbone.device)
    return replace(part, work=replace(part.work, peak=peak), seconds=part.seconds if fits else None)


def _usual_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the median over a few calls: other programs may delay one of them."""
    taken: list[float] = []
    while len(taken) < TRIES and sum(taken) < LONG:
        taken.append(_seconds(call, device))
    return statistics.median(taken)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    begun = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _prepared(backbone: Backbone, subject: Subject) -> None:
    """Do what a fit does before its steps: encode caption and picture, and hash the model for the checkpoint."""
    backbone.encode(subject.caption)
    backbone.latents(fit_square(subject.image, backbone.resolution), generator(0))
    backbone.model_key()
    backbone.fingerprint()


def _step(task: TrainingTask) -> None:
    loss = task.objective.loss(task.parameters, task.generator)
    (loss * task.config.loss_scale).backward()  # type: ignore[no-untyped-call]
    for parameter in task.parameters.values():
        parameter.grad = None


def _evaluate(task: TrainingTask) -> None:
    with torch.no_grad():
        task.objective.loss(task.parameters, task.generator)


def _prediction(
    backbone: Backbone, settings: SamplingSettings, sentence: Conditioning, batch: int
) -> Callable[[], None]:
    def predict() -> None:
        t, conditioning = torch.full((batch,), backbone.timesteps // 2), expanded(sentence, batch)
        with torch.no_grad():
            backbone.predict(_noise(backbone, settings, batch), t, conditioning)

    return predict


def _noise(backbone: Backbone, settings: SamplingSettings, batch: int) -> Tensor:
    """Return latents of that many pictures of the size of the settings."""
    channels, native, _ = backbone.latent_shape
    factor = backbone.resolution // native
    return torch.randn(
        batch, channels, settings.height // factor, settings.width // factor, device=backbone.device
    )
