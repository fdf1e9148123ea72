"""How each arm draws a case: the methods through `edit`, the baselines directly."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from PIL import Image
from torch import Tensor

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.bench.arms import Arm
from hiper.bench.base import Case
from hiper.bench.kept_fits import Fits, KeptFit
from hiper.conditioning import TAIL, random_tail
from hiper.images import fit_square
from hiper.inference import KeepingSampler, edit, resolve_settings
from hiper.methods import EDITING, KEEP_SOURCE, Sampler, get_method
from hiper.options import EARLIER_SAMPLING, SamplingSettings, Value, current_names
from hiper.seeds import generator
from hiper.training import FitControl, StopRequest

BATCH = 4
"""Pictures drawn at a time."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One picture per seed, and what they were drawn with.

    Attributes:
        images: In the order of the seeds, mode RGB.
        prompt: Of all pictures.
        settings: strength, guidance_scale, num_inference_steps and scheduler, as far as they matter.
        fit: What the arm learnt for this; None for a baseline.
        flagged: Seeds whose picture the model's safety checker blackened.
        seconds: Per picture; None where nothing was sampled.
    """

    images: Sequence[Image.Image]
    prompt: str
    settings: Mapping[str, Value]
    fit: KeptFit | None = None
    flagged: Sequence[int] = ()
    seconds: float | None = None


@final
class ArmSampler:
    """A model and the fits, ready to draw any case for any arm."""

    def __init__(self, backbone: Backbone, fits: Fits, should_stop: StopRequest) -> None:
        self._backbone, self._fits = backbone, fits
        self._control = FitControl(should_stop=should_stop)

    def draw(self, arm: Arm, case: Case, seeds: Sequence[int]) -> Drawn:
        """Draw one picture per seed; picture i depends on its own seed only."""
        match arm.name:
            case "none":
                return self._sampled(arm, case.target_caption, case, seeds)
            case "spelled-out":
                assert case.truth is not None
                return self._sampled(arm, case.truth.spelled_out, case, seeds)
            case "truth":
                assert case.truth is not None
                answer = fit_square(case.truth.image, self._backbone.resolution)
                images = [
                    self._backbone.decode(self._backbone.latents(answer, generator(seed)))[0]
                    for seed in seeds
                ]
                return Drawn(images=images, prompt=case.target_caption, settings={})
            case "source":
                source = fit_square(case.source, self._backbone.resolution)
                return Drawn(images=[source] * len(seeds), prompt=case.target_caption, settings={})
            case "other-tail":
                return self._edited(arm, self._fits.of_next(arm, case.subject).artifact, case, seeds)
            case "random-tail":
                own = self._fits.of(arm, case.subject).artifact
                tail = random_tail_of(own.tensors[TAIL], case.subject)
                return self._edited(arm, replace(own, tensors={TAIL: tail}), case, seeds)
        fit = self._fits.of_case(arm, case)
        return replace(self._edited(arm, fit.artifact, case, seeds), fit=fit)

    def _on_step(self, done: int, total: int) -> None:
        """End the drawing after the step under way, if a signal asks for it."""
        self._control.raise_if_stopped()

    def _edited(self, arm: Arm, artifact: Artifact, case: Case, seeds: Sequence[int]) -> Drawn:
        """Draw with the arm's own settings: the fit may be shared with arms that have others."""
        begun = time.perf_counter()
        result = edit(
            self._backbone,
            replace(artifact, edit=_own_edit(arm, artifact, self._backbone)),
            case.target_caption,
            seeds=seeds,
            batch_size=BATCH,
            callback=self._on_step,
        )
        return Drawn(
            images=result.images,
            prompt=result.prompt,
            settings={"strength": result.settings.strength, **_sampling(result.settings)},
            flagged=result.flagged,
            seconds=(time.perf_counter() - begun) / len(seeds),
        )

    def _sampled(self, arm: Arm, prompt: str, case: Case, seeds: Sequence[int]) -> Drawn:
        begun = time.perf_counter()
        own = _own_settings(arm, self._backbone)
        source: Tensor | None = None
        sampler: Sampler = self._backbone
        if own.get(KEEP_SOURCE):
            square = fit_square(case.source, self._backbone.resolution)
            source = self._backbone.latents(square, generator(0))
        settings = resolve_settings(own, self._backbone, [], source=source)
        if source is not None and settings.keep:
            caption = self._backbone.encode(case.source_caption)
            sampler = KeepingSampler(backbone=self._backbone, source=source, caption=caption)
        positive = self._backbone.encode(prompt)
        negative = self._backbone.encode_negative(settings.negative_prompt[0])
        images: list[Image.Image] = []
        flagged: list[int] = []
        for start in range(0, len(seeds), BATCH):
            some = seeds[start : start + BATCH]
            samples = sampler.sample(
                positive,
                [negative],
                settings,
                seeds=some,
                callback=self._on_step,
            )
            images += samples.images
            flagged += [seed for seed, flag in zip(some, samples.flagged, strict=True) if flag]
        return Drawn(
            images=images,
            prompt=prompt,
            settings=_sampling(settings),
            flagged=flagged,
            seconds=(time.perf_counter() - begun) / len(seeds),
        )


def drawing_settings(arm: Arm, backbone: Backbone) -> SamplingSettings:
    """Return what the arm draws with on this model; OptionError where the model cannot."""
    return resolve_settings(_own_settings(arm, backbone), backbone, [])


def _own_settings(arm: Arm, backbone: Backbone) -> dict[str, Value]:
    """Return the drawing settings of the arm, or else of its method, as `Artifact.edit` names them.

    What both leave to the model is missing.
    """
    said = {**get_method(arm.method).sampling_defaults(backbone), **arm.options}
    return {name: said[name] for name in (*EDITING, KEEP_SOURCE) if name in said}


def _own_edit(arm: Arm, artifact: Artifact, backbone: Backbone) -> dict[str, Value]:
    """Return the artifact's settings, but the arm's own where fits are shared among arms of other settings."""
    shared = get_method(arm.method).editing
    kept = {
        name: value
        for name, value in current_names(artifact.edit, EARLIER_SAMPLING).items()
        if name not in shared
    }
    return {**kept, **_own_settings(arm, backbone)}


def random_tail_of(rows: Tensor, subject: str) -> Tensor:
    """Return random rows with the norms of `rows` [tail, embed], the same ones for the same subject's name."""
    seed = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7], "big")
    return random_tail(rows, generator(seed))


def _sampling(settings: SamplingSettings) -> dict[str, Value]:
    names = ("guidance_scale", "num_inference_steps", "scheduler", "keep")
    return {name: getattr(settings, name) for name in names}
