"""What the web page rests on, without a browser: jobs, visitors, the library, seed search, previews."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import hiper
from hiper.artifact import Artifact
from hiper.checkpoint import CheckpointFile
from hiper.cli import main
from hiper.critters.captions import bare_caption, named_attributes
from hiper.critters.demo import demo_scene
from hiper.critters.describe import describe
from hiper.critters.render import render
from hiper.errors import ArtifactError, Interrupted, OptionError, UserError
from hiper.library import Library, default_folder, thumbnail
from hiper.methods.hiper import HiPer
from hiper.previews import Preview, fit_with_previews, preview_steps
from hiper.rankers import CrittersRanker
from hiper.search import Score, evenly, search_seeds, text_first
from hiper.ui import markup
from hiper.ui.handlers import Told
from hiper.ui.jobs import Job, Line, Progress, Stopped
from hiper.ui.studio import EditWish, Similarity, Studio
from hiper.ui.visitors import MOST, Visitors
from tests import tiny
from tests.test_images import as_nobody

CAPTION = "a standing dog"


@pytest.fixture(scope="module")
def subject() -> hiper.Subject:
    return hiper.Subject.from_image(tiny.picture(), caption=CAPTION)


@pytest.fixture(scope="module")
def tail(sd1: Any, subject: hiper.Subject) -> Artifact:
    return hiper.fit(sd1, subject, steps=4)


# previews


def _fitted(sd1: Any, subject: hiper.Subject, path: Path, at: tuple[int, ...], stop_at: int = 0) -> Any:
    steps: list[int] = []
    shown: list[Preview] = []
    artifact = fit_with_previews(
        sd1,
        subject,
        HiPer().options(steps=12),
        at=at,
        on_preview=shown.append,
        checkpoint=CheckpointFile(path=path, resume=True),
        callback=lambda record: steps.append(record.step),
        should_stop=lambda: 2 if stop_at and steps[-1] >= stop_at else None,
    )
    return artifact, steps, shown


def test_previews_do_not_change_the_fit(sd1: Any, subject: hiper.Subject, tmp_path: Path) -> None:
    plain = hiper.fit(sd1, subject, preset="default", steps=12)
    artifact, steps, shown = _fitted(sd1, subject, tmp_path / "fit", (3, 6, 9))
    assert torch.equal(artifact.tensors["tail"], plain.tensors["tail"])
    assert steps == list(range(1, 13))
    assert [each.step for each in shown] == [3, 6, 9]
    assert shown[0].image.size == (sd1.resolution, sd1.resolution)
    assert shown[0].image.tobytes() != shown[2].image.tobytes()


def test_a_stop_is_no_preview(sd1: Any, subject: hiper.Subject, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        _fitted(sd1, subject, tmp_path / "fit", (3,), stop_at=5)
    _, steps, shown = _fitted(sd1, subject, tmp_path / "fit", (3, 4, 9))
    assert steps[0] == 6
    assert [each.step for each in shown] == [6, 9]


def test_steps_of_previews_lie_inside() -> None:
    assert preview_steps(200, 4) == (40, 80, 120, 160)
    assert preview_steps(3, 4) == (1, 2)
    assert preview_steps(1, 4) == ()


# seed search


class Redness:
    """A ranker whose scores can be computed by hand."""

    def score(self, picture: Image.Image, sentence: str) -> Score:
        red, green, _ = picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[misc]
        return Score(text=0.0, identity=float(red - green))

    def order(self, scores: Any) -> list[int]:
        return text_first(scores)


def test_search_draws_the_best_of_the_quick_draws(sd1: Any, tail: Artifact) -> None:
    found = search_seeds(
        sd1, tail, "a sitting dog", Redness(), first_seed=5, candidates=6, quick_steps=2, best=2, steps=4
    )
    quick = hiper.edit(sd1, tail, "a sitting dog", seeds=range(5, 11), steps=2)
    scores = [Redness().score(image, "").identity for image in quick.images]
    expected = sorted(range(6), key=lambda i: -scores[i])
    assert [each.seed for each in found.candidates] == [5 + i for i in expected]
    assert found.drawn.seeds == tuple(5 + i for i in expected[:2])
    full = hiper.edit(sd1, tail, "a sitting dog", seeds=found.drawn.seeds, steps=4)
    assert [each.tobytes() for each in found.drawn.images] == [each.tobytes() for each in full.images]


@pytest.mark.parametrize("amount", [{"candidates": 0}, {"candidates": 257}, {"candidates": 2, "best": 3}])
def test_search_refuses_impossible_numbers(sd1: Any, tail: Artifact, amount: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="allowed are whole numbers"):
        search_seeds(sd1, tail, "a dog", Redness(), **amount)  # type: ignore[arg-type]


def test_orders_of_scores() -> None:
    scores = [Score(text=t, identity=i) for t, i in ((1, 0.2), (0.5, 0.9), (1, 0.3), (0, 1))]
    assert text_first(scores) == [2, 0, 1, 3]
    assert evenly(scores)[0] == 1  # good in both counts for more than the best of one
    assert evenly([Score(text=1, identity=1)] * 3) == [0, 1, 2]


def test_critters_are_ranked_by_the_sentence_first_then_by_colours() -> None:
    scene = demo_scene(3)
    sitting = replace(scene, pose="sitting")
    other = replace(sitting, identity=demo_scene(4).identity)
    ranker = CrittersRanker(render(scene))
    sentence = f"a sitting {scene.species}"
    scores = [ranker.score(render(each), sentence) for each in (scene, other, sitting)]
    assert [score.text for score in scores] == [0.5, 1, 1]
    assert scores[0].identity == 0
    assert ranker.order(scores) == [2, 1, 0]
    assert ranker.score(render(scene), "something else").text == 1


def test_attributes_named_in_free_words() -> None:
    assert named_attributes("A  fox sitting on the beach, or so") == {"species": "fox", "pose": "sitting"}
    assert named_attributes("a pencil sketch of a cat in the city") == {
        "species": "cat",
        "style": "sketch",
        "background": "city",
    }
    for seed in range(5):
        scene = demo_scene(seed)
        assert describe(render(scene)) == bare_caption(scene)


# library


def test_library_keeps_subjects(tmp_path: Path, tail: Artifact) -> None:
    library = Library(tmp_path / "new" / "library")
    assert library.listing().entries == ()
    entry = library.add(tail, tiny.picture())
    assert entry.artifact.to_bytes() == tail.to_bytes()
    assert entry.picture is not None
    assert entry.picture.tobytes() == tiny.picture().tobytes()
    assert library.add(tail, None).name == entry.name
    later = replace(tail, created="2999-01-01T00:00:00+00:00", caption="../..")
    assert library.add(later, None).tail.parent.parent == library.folder
    names = [each.artifact.caption for each in library.listing().entries]
    assert names == ["../..", CAPTION]


def test_a_damaged_subject_keeps_no_other_back(tmp_path: Path, tail: Artifact) -> None:
    library = Library(tmp_path)
    entry = library.add(tail, None)
    broken = tmp_path / "broken" / "tail.safetensors"
    broken.parent.mkdir()
    broken.write_bytes(b"no tail")
    listing = library.listing()
    assert [each.name for each in listing.entries] == [entry.name]
    assert "broken" in listing.damaged[0]
    with pytest.raises(ArtifactError):
        library.open("broken")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _another_schema(path: Path) -> None:
    data = path.read_bytes()
    assert data.count(b'"hiper.schema":"1"') == 1
    path.write_bytes(data.replace(b'"hiper.schema":"1"', b'"hiper.schema":"9"'))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "picture cut": lambda entry: _cut(entry / "source.png"),
    "picture that is none": lambda entry: (entry / "source.png").write_text("Dear Sir"),
    "picture that is a folder": lambda entry: _instead(entry / "source.png", Path.mkdir),
    "picture that leads nowhere": lambda entry: _instead(
        entry / "source.png", lambda path: path.symlink_to("nowhere")
    ),
    "tail cut": lambda entry: _cut(entry / "tail.safetensors"),
    "tail of another schema": lambda entry: _another_schema(entry / "tail.safetensors"),
    "tail that is a folder": lambda entry: _instead(entry / "tail.safetensors", Path.mkdir),
    "tail that leads nowhere": lambda entry: _instead(
        entry / "tail.safetensors", lambda path: path.symlink_to("nowhere")
    ),
    "no tail": lambda entry: (entry / "tail.safetensors").unlink(),
    "copy": lambda entry: entry.rename(entry.with_name("damaged (copy)")),
    "file": lambda entry: (shutil.rmtree(entry), entry.write_text("no folder")),
    "link to nowhere": lambda entry: (shutil.rmtree(entry), entry.symlink_to("nowhere")),
    "link to itself": lambda entry: (shutil.rmtree(entry), entry.symlink_to(entry)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_whatever_lies_in_the_library_keeps_no_subject_back(
    tmp_path: Path, tail: Artifact, kind: str
) -> None:
    library = Library(tmp_path / "library")
    sound = library.add(tail, tiny.picture())
    shutil.copytree(sound.tail.parent, library.folder / "damaged")
    (library.folder / ".DS_Store").write_text("a file manager's own")
    DAMAGE[kind](library.folder / "damaged")
    listing = library.listing()
    assert [each.name for each in listing.entries] == [sound.name]
    assert len(listing.damaged) == 1
    assert "damaged" in listing.damaged[0]
    assert "\n" not in listing.damaged[0]
    assert str(tmp_path) not in listing.damaged[0]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no POSIX permissions here")
@pytest.mark.parametrize("part", ["", "source.png", "tail.safetensors"])
def test_a_subject_without_permission_is_named(tail: Artifact, part: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        library = Library(Path(place))
        sound = library.add(tail, tiny.picture())
        shutil.copytree(sound.tail.parent, library.folder / "secret")
        (library.folder / "secret" / part).chmod(0)
        with as_nobody():
            listing = library.listing()
        assert [each.name for each in listing.entries] == [sound.name]
        assert "secret" in listing.damaged[0]
        assert "ermission" in listing.damaged[0]


@pytest.mark.parametrize("name", ["", ".", "..", "../library", "/etc", "a/b", "a\0b", "nobody"])
def test_names_are_no_paths(tmp_path: Path, tail: Artifact, name: str) -> None:
    library = Library(tmp_path / "library")
    library.add(tail, None)
    with pytest.raises(OptionError, match="no subject"):
        library.open(name)


def test_thumbnails_of_strangers(tail: Artifact) -> None:
    assert thumbnail(tail) is not None
    for url in ("", "https://example.com/x.jpg", "data:image/jpeg;base64,AAAA", "data:image/jpeg;base64,%%"):
        assert thumbnail(replace(tail, thumbnail=url)) is None


def test_folder_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIPER_LIBRARY", "/a")
    monkeypatch.setenv("XDG_DATA_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert default_folder() == Path("/a")
    monkeypatch.delenv("HIPER_LIBRARY")
    assert default_folder() == Path("/b/hiper/library")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_folder() == Path("/c/.local/share/hiper/library")


# jobs and visitors


def endless(job: Job[None]) -> None:
    for step in range(10**9):
        job.report("working", step, 10**9)


def test_jobs_take_turns_and_a_stopped_one_gives_way(tmp_path: Path) -> None:
    visitors = Visitors(tmp_path)
    first = visitors.start("a", endless)
    while not first.progress.done:
        first.wait(0.001)
    second = visitors.start("b", lambda job: "done")
    assert not second.wait(0.05)
    assert (first.before, second.before) == (0, 1)
    unwanted = visitors.start("c", endless)
    visitors.stop("c")
    assert unwanted.wait(60)
    visitors.stop("a")
    assert second.wait(60)
    assert second.result() == "done"
    with pytest.raises(Stopped):
        first.result()
    with pytest.raises(Stopped):
        unwanted.result()


def test_no_more_jobs_than_the_line_holds(tmp_path: Path) -> None:
    visitors = Visitors(tmp_path)
    for number in range(MOST):
        visitors.start(str(number), endless)
    with pytest.raises(UserError, match=f"^{MOST} jobs wait for the model already"):
        visitors.start("one more", endless)
    visitors.close()
    assert visitors.start("one more", lambda job: "done").wait(60)


def test_leaving_the_ticks_stops_the_job() -> None:
    job = Job(endless, Line())
    ticks = job.ticks(0.01)
    next(ticks)
    del ticks  # as when a tab is closed: the generator is thrown away
    assert job.wait(60)


def test_an_error_in_a_job_is_raised_where_its_result_is_asked_for() -> None:
    def fails(job: Job[None]) -> None:
        raise OptionError("no")

    job = Job(fails, Line())
    assert job.wait(60)
    with pytest.raises(OptionError, match="no"):
        job.result()


def test_a_visitor_who_leaves_takes_the_files_along(tmp_path: Path) -> None:
    visitors = Visitors(tmp_path)
    mine, theirs = visitors.new_folder("../../me"), visitors.new_folder("you")
    assert mine.parent.parent == tmp_path
    visitors.forget("../../me")
    assert not mine.parent.exists()
    assert theirs.exists()


def test_progress_knows_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("hiper.ui.jobs.time.monotonic", lambda: now[0])
    progress = Progress()
    progress.report("fit", 10, 20)
    assert "left" not in markup.bar(progress)
    now[0] = 104.0
    progress.report("fit", 12, 20)
    assert progress.seconds_left == 16.0
    assert "12 of 20, about 16 s left" in markup.bar(progress)


def test_markup_escapes_what_comes_from_outside(tail: Artifact, tmp_path: Path) -> None:
    evil = "<script>'\"&"
    entry = Library(tmp_path).add(replace(tail, caption=evil, backbone=evil), None)
    progress = Progress()
    progress.report(evil, 1, 2)
    pieces = (
        markup.subject(entry),
        markup.bar(progress),
        markup.message(evil),
        markup.heading(evil, embedded=True),
    )
    for piece in pieces:
        assert "<script>" not in piece
        assert "&lt;script&gt;&#x27;&quot;&amp;" in piece


# the studio


def test_studio_works_with_any_model_and_says_what_its_search_needs(
    sd1: Any, subject: hiper.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIPER_CACHE", str(tmp_path / "cache"))
    studio = Studio(sd1, Library(tmp_path / "library"), Visitors(tmp_path), Similarity())
    options = HiPer().options(steps=4)
    fit, watch = studio.learn("me", subject, options, previews=True)
    assert fit.wait(60)
    assert fit.result().artifact.options["steps"] == 4
    assert [each.step for each in watch.previews] == [1, 2, 3]
    again, watch = studio.learn("me", subject, options, previews=True)
    assert again.wait(60)
    assert again.result().name == fit.result().name
    assert watch.records == []  # the finished fit was taken as it is
    wish = EditWish(
        sentences=["a sitting dog", "a jumping dog"],
        images=2,
        first_seed=3,
        strength=0.8,
        guidance=3.0,
        steps=2,
        scheduler="ddim",
        negative_prompt="",
    )
    drawing, drawn = studio.draw("me", fit.result().name, wish)
    assert drawing.wait(60)
    assert [each.caption for each in drawn.pictures][1:3] == [
        "a sitting dog · seed 4",
        "a jumping dog · seed 3",
    ]
    assert all(each.path.is_relative_to(tmp_path) and each.path.is_file() for each in drawn.pictures)
    with pytest.raises(OptionError, match="--clip FOLDER"):
        studio.search("me", fit.result().name, wish, candidates=8)
    with pytest.raises(OptionError, match="at a time 1 to 64"):
        studio.draw("me", fit.result().name, replace(wish, images=33))
    with pytest.raises(OptionError, match="no subject is chosen"):
        studio.draw("me", "", wish)


# the command


def test_without_gradio_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["ui"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert 'pip install "hiper[ui]"' in err


def test_the_curve_is_drawn_of_records_that_grow_meanwhile() -> None:
    from hiper.fitting import StepRecord
    from hiper.ui.learning import _curve

    class Growing(list[StepRecord]):
        def __iter__(self) -> Any:
            yield from list(self[:])
            self.append(StepRecord(step=len(self) + 1, steps=9, loss=1.0, seconds=0.0))

    records = Growing([StepRecord(step=1, steps=9, loss=1.0, seconds=0.0)])
    assert list(_curve(records)["step"]) == [1]


def test_a_lack_of_memory_is_told_in_words() -> None:
    with pytest.warns(UserWarning, match="out of memory; what was saved stays"), Told():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(RuntimeError, match="size mismatch"), Told():
        raise RuntimeError("size mismatch")
