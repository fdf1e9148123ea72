"""Whatever draws honours every setting of a drawing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import hiper
from hiper.analysis.attention import study_drawing
from hiper.artifacts import Artifact, Library
from hiper.backbones.sd import SdBackbone
from hiper.batch import BatchSettings, Defaults, read_jobs
from hiper.batch import run as run_batch
from hiper.errors import HiperWarning, OptionError
from hiper.images import Subject
from hiper.inference import Score, read_drawn, rerun, search_seeds
from hiper.methods import HiPer
from hiper.options import SamplingKwargs, SamplingSettings
from hiper.web import Similarity
from hiper.web.service import DrawRequest, Service
from hiper.web.sessions import Sessions
from tests import tiny
from tests.conftest import Cli

SENTENCE = "a sitting dog"
SETTINGS: Mapping[str, Any] = {
    "strength": 0.5,
    "guidance_scale": 3.0,
    "num_inference_steps": 2,
    "scheduler": "euler",
    "height": 48,
    "width": 40,
    "negative_prompt": "a red cat",
    "keep": 0.0,
}
"""Of every setting a value that nothing has by itself."""
WORDS = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]

Drawings = list[dict[str, Any]]


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> Drawings:
    """What every drawing was made with, by whichever tiny model."""
    seen: Drawings = []
    sample = SdBackbone.sample

    def noted(self: SdBackbone, positive: Any, negatives: Any, settings: Any, **others: Any) -> Any:
        seen.append({**asdict(settings), "negative_prompt": negatives[0].prompt})
        return sample(self, positive, negatives, settings, **others)

    monkeypatch.setattr(SdBackbone, "sample", noted)
    return seen


def check(drawings: Drawings, *, but: tuple[str, ...] = ()) -> None:
    assert drawings
    for drawing in drawings:
        for name, value in SETTINGS.items():
            if name not in but:
                assert drawing[name] == value, (name, drawing[name])


@pytest.fixture(scope="module")
def artifact(tail: Path) -> Artifact:
    return Artifact.load(tail)


class Bright:
    """Ranks by brightness."""

    def score(self, picture: Image.Image, sentence: str) -> Score:
        return Score(text=float(sum(picture.convert("L").tobytes())), identity=0.0)

    def order(self, scores: Any) -> list[int]:
        return sorted(range(len(scores)), key=lambda i: scores[i].text)


def test_the_settings_are_those_that_an_edit_resolves() -> None:
    assert set(SETTINGS) == set(SamplingKwargs.__annotations__) == set(SamplingSettings.__dataclass_fields__)


def test_an_edit(sd1: SdBackbone, artifact: Artifact, drawings: Drawings) -> None:
    result = hiper.edit(sd1, artifact, SENTENCE, **SETTINGS)
    check(drawings)
    assert result.settings == SamplingSettings(**{**SETTINGS, "negative_prompt": ("a red cat",)})


def test_a_seed_search(sd1: SdBackbone, artifact: Artifact, drawings: Drawings) -> None:
    found = search_seeds(sd1, artifact, SENTENCE, Bright(), candidates=2, best=1, quick_steps=1, **SETTINGS)
    check(drawings, but=("num_inference_steps",))
    assert [drawing["num_inference_steps"] for drawing in drawings] == [1, SETTINGS["num_inference_steps"]]
    assert found.drawn.settings.strength == SETTINGS["strength"]


def test_a_seed_search_keeps_each_seed_s_negative_prompt(
    sd1: SdBackbone, artifact: Artifact, drawings: Drawings
) -> None:
    texts = ["a cat", "a blue cat", "a red cat"]
    found = search_seeds(
        sd1, artifact, SENTENCE, Bright(), first_seed=5, candidates=3, best=2, quick_steps=1, num_inference_steps=1,
        negative_prompt=texts,
    )  # fmt: skip
    assert found.drawn.settings.negative_prompt == tuple(texts[seed - 5] for seed in found.drawn.seeds)


def test_a_watched_drawing_is_the_edit_s_own(sd1: SdBackbone, artifact: Artifact, drawings: Drawings) -> None:
    study = study_drawing(sd1, artifact, SENTENCE, seed=3, **SETTINGS)
    check(drawings)
    (picture,) = hiper.edit(sd1, artifact, SENTENCE, seeds=[3], **SETTINGS).images
    assert study.learnt.picture.tobytes() == picture.tobytes()
    assert study.settings["strength"] == SETTINGS["strength"]


@pytest.fixture
def service(sd1: SdBackbone, artifact: Artifact, tmp_path: Path) -> Service:
    library = Library(tmp_path / "library")
    library.add(artifact, tiny.picture())
    return Service(sd1, library, Sessions(tmp_path), Similarity())


@pytest.mark.slow
@pytest.mark.parametrize("searching", [False, True])
def test_the_page(
    service: Service, drawings: Drawings, monkeypatch: pytest.MonkeyPatch, searching: bool
) -> None:
    monkeypatch.setattr(service, "_ranker", lambda name: Bright())
    here = {name: value for name, value in SETTINGS.items() if name not in ("height", "width")}
    wish = DrawRequest(sentences=[SENTENCE], images=1, first_seed=0, **here)
    (entry,) = service.library.listing().entries
    start: Callable[..., Any] = service.search if searching else service.draw
    job, watch = start("me", entry.name, wish, **({"candidates": 2} if searching else {}))
    assert job.wait(60)
    job.result()
    assert len(watch.pictures) == 1
    check(drawings[-1:], but=("height", "width"))
    check(drawings[:1], but=("height", "width", "num_inference_steps"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["edit", "run", "attention"])
def test_the_commands_and_their_reports(
    cli: Cli, drawings: Drawings, tail: Path, dog: Path, model_folder: Path, tmp_path: Path, command: str
) -> None:
    report = ("--report", tmp_path / "page.html")
    model = ("--backbone", model_folder, "--device", "cpu")
    words: Mapping[str, tuple[Any, ...]] = {
        "edit": ("edit", tail, SENTENCE, *report),
        "run": ("run", dog, SENTENCE, "--caption", "a standing dog", "-o", "num_train_steps=2", *report),
        "attention": ("attention", tail, "--prompt", SENTENCE),
    }
    given = WORDS if command != "attention" else WORDS[: WORDS.index("--keep")]
    done = cli(*words[command], *model, *given, "--out", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    check(drawings, but=("strength",))  # a report compares several
    assert drawings[0]["strength"] == SETTINGS["strength"]
    assert len(drawings) > 1


@pytest.mark.slow
def test_a_batch_and_a_rerun(
    drawings: Drawings, dog: Path, model_folder: Path, tmp_path: Path, sd1: SdBackbone
) -> None:
    settings = dict(SETTINGS)
    line = {
        "image": str(dog),
        "caption": "a standing dog",
        "sentences": [SENTENCE],
        "backbone": str(model_folder),
        "options": {"num_train_steps": 2},
        "negative_prompt": settings.pop("negative_prompt"),
        "edit": settings,
    }
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line))
    assert run_batch(
        read_jobs(tmp_path / "jobs.jsonl", Defaults()), str(tmp_path / "out"), BatchSettings()
    ).succeeded
    check(drawings)
    drawings.clear()
    (path,) = (tmp_path / "out").glob("jobs/*/a-sitting-dog-*.png")
    drawn = read_drawn(path)
    assert drawn.artifact is not None
    backbone = hiper.load_backbone(model_folder, device="cpu")
    assert rerun(drawn, backbone, drawn.artifact).changed == 0
    check(drawings)


@pytest.mark.slow
def test_a_subject_s_own_settings_reach_a_preview(
    sd1: SdBackbone, drawings: Drawings, tmp_path: Path
) -> None:
    """A preview is quick, so sampler and steps are its own."""
    from hiper.inference import fit_with_previews
    from hiper.training import CheckpointFile, FitControl

    options = HiPer().options("default", num_train_steps=4, guidance_scale=SETTINGS["guidance_scale"])
    fit_with_previews(
        sd1,
        Subject.from_image(tiny.picture(), caption="a standing dog"),
        options,
        at=(2,),
        on_preview=lambda preview: None,
        control=FitControl(checkpoint=CheckpointFile(path=tmp_path / "fit.checkpoint")),
    )
    assert [drawing["guidance_scale"] for drawing in drawings] == [SETTINGS["guidance_scale"]]


def test_earlier_names_are_read_with_a_note(sd1: SdBackbone, artifact: Artifact, drawings: Drawings) -> None:
    with pytest.warns(HiperWarning, match="guidance is now called guidance_scale"):
        result = hiper.edit(sd1, artifact, SENTENCE, guidance=3.0, num_inference_steps=1, keep=0)
    assert [drawing["guidance_scale"] for drawing in drawings] == [3.0]
    assert result.settings.guidance == result.settings.guidance_scale
    with pytest.raises(OptionError, match="twice"):
        hiper.edit(sd1, artifact, SENTENCE, steps=1, num_inference_steps=1)
    with pytest.raises(TypeError, match="guidence"):
        hiper.edit(sd1, artifact, SENTENCE, guidence=3.0)  # type: ignore[call-arg]


def test_earlier_names_of_options_are_read_with_a_note() -> None:
    with pytest.warns(HiperWarning, match="edit_steps is now called num_inference_steps"):
        options = HiPer().options("default", edit_steps=7, guidance_scale=2)
    assert (options.num_inference_steps, options.guidance_scale) == (7, 2.0)
