"""A worker of a batch: loads a model, fits a group of subjects together, draws, and writes the results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import final

from hiper.artifacts import Artifact
from hiper.backbones import load_backbone
from hiper.batch.messages import Describe, Group, JobResult, ModelFacts, ModelSpec, PlannedJob
from hiper.batch.results import Fit, write_results
from hiper.batch.store import open_store
from hiper.critters import tell_of_strangers
from hiper.errors import BackboneError, HiperError
from hiper.images import Subject
from hiper.methods import FitInput, fit_all, get_method
from hiper.options import deterministic, differences
from hiper.training import FitControl, Outcome, StopRequest, capture


@final
class BatchWorker:
    """Keeps one model from order to order. Results go from here to the store at `out`."""

    def __init__(self, out: str, should_stop: StopRequest) -> None:
        self._store, self._control = open_store(out), FitControl(should_stop=should_stop)
        self._model: ModelSpec | None = None
        import_module("hiper.backbones.sd")  # takes seconds, which are not to count for the first job

    def __call__(self, order: Describe | Group) -> ModelFacts | list[JobResult]:
        """Carry out an order.

        Raises:
            BackboneError: The model cannot be loaded, or is not the one that was described.
        """
        with deterministic(order.model.deterministic):
            self._load(order.model)
            if isinstance(order, Describe):
                return self._facts
            if self._facts != order.facts:
                changed = ", ".join(differences(order.facts.key, self._facts.key))
                raise BackboneError(
                    f"{order.model.name} is not what it was when this batch began, or not the same on all machines"
                    f" ({changed}); run the batch again"
                )
            return self._do(order)

    def _load(self, model: ModelSpec) -> None:
        if self._model == model:
            return
        self._model = None
        backbone = load_backbone(
            model.name,
            device=model.device,
            dtype=model.dtype,
            local_only=None if model.may_download else True,
            prediction_type=model.prediction_type,
        )
        self._facts = ModelFacts.of(backbone)
        self._backbone, self._model = backbone, model

    def _do(self, group: Group) -> list[JobResult]:
        """Fit those whose picture can be read, then draw job by job; one that fails leaves the others alone.

        What another worker has finished, before it died and could say so, is not done again.
        """
        todo = [job for job in group.jobs if not all(map(self._store.exists, job.files()))]
        opened = {job.place: capture(partial(_request, job, self._backbone.id)) for job in todo}
        requests = {place: each.result for place, each in opened.items() if isinstance(each.result, FitInput)}
        begun = time.perf_counter()
        fitted = dict(zip(requests, self._fit(group, list(requests.values())), strict=True))
        seconds = (time.perf_counter() - begun) / max(1, len(requests))
        errors: dict[str, HiperError | None] = {}
        notes: dict[str, tuple[str, ...]] = {}
        for job in todo:
            outcome = fitted.get(job.place) or opened[job.place]
            if isinstance(outcome.result, HiperError):
                errors[job.place] = outcome.result
                continue
            assert isinstance(outcome.result, Artifact)
            fit = Fit(
                planned=job,
                request=requests[job.place],
                artifact=outcome.result,
                notes=(*opened[job.place].notes, *outcome.notes),
                seconds=seconds,
                slots=group.slots,
            )
            drawn = capture(
                partial(write_results, self._store, self._backbone, self._facts, fit, self._on_step)
            )
            errors[job.place] = drawn.result if isinstance(drawn.result, HiperError) else None
            notes[job.place] = (*fit.notes, *drawn.notes)
        return [
            JobResult(place=job.place, error=errors.get(job.place), notes=notes.get(job.place, ()))
            for job in group.jobs
        ]

    def _fit(self, group: Group, requests: Sequence[FitInput]) -> list[Outcome[Artifact]]:
        if not requests:
            return []
        method = get_method(group.jobs[0].job.method)
        return fit_all(method, self._backbone, requests, slots=group.slots, control=self._control)

    def _on_step(self, done: int, total: int) -> None:
        self._control.raise_if_stopped()


def _request(planned: PlannedJob, backbone: str) -> FitInput:
    job = planned.job
    subject = Subject.open(job.image_path, caption=job.caption, mask=job.mask_path)
    tell_of_strangers(subject, backbone)
    return FitInput(subject=subject, options=job.resolved_options())
