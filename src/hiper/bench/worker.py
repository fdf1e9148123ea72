"""The work of a run: drawing it subject by subject, in any process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image

from hiper.backbones import Backbone, load_backbone
from hiper.bench.arm_sampler import ArmSampler, Drawn
from hiper.bench.arms import Arm, parse_arms
from hiper.bench.base import Case, Suite
from hiper.bench.kept_fits import Fits
from hiper.bench.records import CellResult, Run
from hiper.bench.suites import SuiteSpec, open_suite
from hiper.errors import HiperError
from hiper.files import atomic_write, make_folder
from hiper.images import fit_square, png_bytes
from hiper.methods import get_method
from hiper.options import differences, versions
from hiper.training import FitControl, StopRequest


@dataclass(frozen=True, kw_only=True)
class BenchJob:
    """What a run is to do: plain data, the same in every process.

    Attributes:
        suite: What to draw.
        backbone: A model's name or path.
        arms: Their canonical texts.
        folder: For the results.
        seeds: Pictures per edit.
        device: cpu, cuda or mps; None takes the fastest there is.
        dtype: Of the model's weights; None takes the default.
        prediction_type: Of the model, where the user states it.
        deterministic: Whether workers compute the same bits every time on an accelerator too.
    """

    suite: SuiteSpec
    backbone: str
    arms: tuple[str, ...]
    folder: Path
    seeds: int
    device: str | None
    dtype: str | None
    prediction_type: str | None = None
    deterministic: bool = False

    @property
    def picture_seeds(self) -> range:
        """The seeds of an edit's pictures."""
        return range(self.suite.seed, self.suite.seed + self.seeds)


@final
class BenchWorker:
    """The suite, the model and the arms of a job, loaded; draws what is missing of a subject."""

    def __init__(
        self, job: BenchJob, run: Run, suite: Suite, backbone: Backbone, should_stop: StopRequest
    ) -> None:
        self._job, self._run, self._suite, self._backbone = job, run, suite, backbone
        self._control = FitControl(should_stop=should_stop)
        self._arms = parse_arms(job.arms)
        fits = Fits(job.folder / "fits", suite, backbone, should_stop)
        self._arm_sampler = ArmSampler(backbone, fits, should_stop)

    @classmethod
    def load(cls, job: BenchJob, run: Run, should_stop: StopRequest) -> BenchWorker:
        """Load the suite and the model of a job.

        Raises:
            HiperError: They have changed since the run began.
        """
        backbone = load_backbone(
            job.backbone, device=job.device, dtype=job.dtype, prediction_type=job.prediction_type
        )
        suite = open_suite(job.suite)
        changed = [
            *differences(run.identity.model, backbone.model_key()),
            *differences(run.identity.suite, suite.identity()),
        ]
        if changed:
            raise HiperError(
                f"the model {job.backbone} or the suite has changed since the run began ({', '.join(changed)});"
                " put it back, or begin in another folder"
            )
        return cls(job, run, suite, backbone, should_stop)

    def draw(self, subject: str) -> Iterator[int]:
        """Draw and score what is missing of one subject; yield how many cells that was, of each arm and edit."""
        cases = self._suite.cases(subject)
        save_pictures(self._job.folder, cases, self._backbone.resolution)
        for arm in self._arms:
            for case in cases:
                yield self._draw(arm, case)
                self._control.raise_if_stopped()

    def _draw(self, arm: Arm, case: Case) -> int:
        """Draw all seeds together, though some may be there: a batch of another size may differ in the last bits."""
        seeds = self._job.picture_seeds
        paths = self._run.paths(self._job.folder, arm.text, case.subject)
        missing = [seed for seed in seeds if not paths[case.edit, seed].exists()]
        if missing:
            drawn = self._arm_sampler.draw(arm, case, seeds)
            for seed in missing:
                self._save(paths[case.edit, seed], arm, case, seed, drawn)
        return len(missing)

    def _save(self, path: Path, arm: Arm, case: Case, seed: int, drawn: Drawn) -> None:
        """Write the picture, then the record: a cell is there when its record is."""
        picture = drawn.images[self._job.picture_seeds.index(seed)]
        make_folder(path.parent, within=self._job.folder)
        atomic_write(path.with_suffix(".png"), png_bytes(picture), overwrite=True)
        self._cell(arm, case, seed, drawn, picture).save(path)

    def _cell(self, arm: Arm, case: Case, seed: int, drawn: Drawn, picture: Image.Image) -> CellResult:
        scores = self._suite.score(case, picture)
        fit = drawn.fit
        return CellResult(
            suite=self._run.identity.suite,
            arm=arm.text,
            options=arm.options,
            settings=drawn.settings,
            subject=case.subject,
            edit=case.edit,
            seed=seed,
            caption=case.learnt_from(arm.source_caption),
            prompt=drawn.prompt,
            scores={name: scores[name] for name in self._run.metrics},
            flagged=seed in drawn.flagged,
            fit_seconds=fit.artifact.figures.get("seconds") if fit else None,
            edit_seconds=drawn.seconds,
            artifact_bytes=fit.bytes if fit else None,
            per_sentence=fit is not None and get_method(arm.method).per_sentence,
            versions=versions(),
        )


def save_pictures(folder: Path, cases: Sequence[Case], side: int) -> None:
    """Write source and true answers of a subject, for the report, as the model sees them."""
    for case in cases:
        place = folder / "subjects" / case.subject
        pictures = {"source": case.source, f"{case.edit}-truth": case.truth.image if case.truth else None}
        for name, picture in pictures.items():
            if picture is not None and not (place / f"{name}.png").exists():
                data = png_bytes(fit_square(picture, side))
                atomic_write(make_folder(place, within=folder) / f"{name}.png", data, overwrite=True)
