"""The fits of the arms: one file per arm and subject, or prompt, fitted once and kept with the run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from hiper import files
from hiper.artifacts import Artifact, cached_fit
from hiper.backbones import Backbone
from hiper.bench.arms import Arm
from hiper.bench.base import Case, Suite
from hiper.critters import tell_of_strangers
from hiper.images import Subject
from hiper.methods import get_method
from hiper.training import FitControl, StopRequest

_SECONDS_BETWEEN_TRIES = 0.2


@dataclass(frozen=True, kw_only=True)
class KeptFit:
    """What was learnt of one subject, and the size of its file."""

    artifact: Artifact
    bytes: int


@final
class Fits:
    """The fits below one folder, which several processes may share: the second one waits."""

    def __init__(self, folder: Path, suite: Suite, backbone: Backbone, should_stop: StopRequest) -> None:
        self._folder, self._suite, self._backbone = folder, suite, backbone
        self._control = FitControl(should_stop=should_stop)

    def of(self, arm: Arm, subject: str) -> KeptFit:
        """Return the fit of `subject` that the arm draws with, made now unless it is there."""
        return self._kept(arm, self._suite.cases(subject)[0], self._folder / arm.fitted().slug, subject)

    def of_case(self, arm: Arm, case: Case) -> KeptFit:
        """Return the fit of the case's subject, or for the case's sentence where the method needs one for each."""
        if not get_method(arm.method).per_sentence:
            return self.of(arm, case.subject)
        folder = self._folder / arm.fitted().slug / case.subject
        return self._kept(arm, case, folder, case.edit, target=case.target_caption)

    def of_next(self, arm: Arm, subject: str) -> KeptFit:
        """Return the fit of the subject that follows in the whole suite; the first follows the last."""
        names = list(self._suite.subjects())
        return self.of(arm, names[(names.index(subject) + 1) % len(names)])

    def _kept(self, arm: Arm, case: Case, folder: Path, name: str, **options: object) -> KeptFit:
        path = files.make_folder(folder, within=self._folder.parent) / f"{name}.safetensors"
        artifact = cached_fit(path)
        if artifact is None:
            with _locked(path, self._control):
                artifact = cached_fit(path) or self._fit(arm, case, path, options)
        return KeptFit(artifact=artifact, bytes=path.stat().st_size)

    def _fit(self, arm: Arm, case: Case, path: Path, options: Mapping[str, object]) -> Artifact:
        fitted = arm.fitted()
        method = get_method(fitted.method)
        caption = case.learnt_from(fitted.source_caption)
        subject = Subject.from_image(case.source, caption=caption, mask=case.mask)
        tell_of_strangers(subject, self._backbone.id)
        artifact = method.fit(
            self._backbone,
            subject,
            method.options(fitted.preset, **{**fitted.changes, **options}),
            self._control,
        )
        artifact.save(path, overwrite=True)
        return artifact


@contextmanager
def _locked(path: Path, control: FitControl) -> Iterator[None]:
    """Be the only process that fits into `path`, after waiting for another one."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(files.lock(path))
                break
            except files.InUseError:
                pass
            control.raise_if_stopped()
            time.sleep(_SECONDS_BETWEEN_TRIES)
        yield
